//! Pages.

pub mod layers {
    //! Where the layers go.
}
