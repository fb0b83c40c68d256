//! Prints what a crate makes public, an item to a line, from the JSON of rustdoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args_os().nth(1).ok_or("name the JSON of rustdoc")?;
    // Those that the compiler and the standard library give to every type say nothing of this one.
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_auto_trait_impls(true)
        .omit_blanket_impls(true)
        .build()?;
    print!("{api}");
    Ok(())
}
