//! Reads Wycheproof's JOSE vectors from the folder that `WYCHEPROOF_DIR` names: no registry has them.
//! `tests/it/wycheproof.rs` compiles this file too.

use std::path::Path;

use serde_json::Value;

#[allow(dead_code, reason = "each of the two users reads only some of the fields")]
pub(crate) struct Vector {
    pub(crate) number: u64,
    pub(crate) is_valid: bool,
    pub(crate) is_jwe: bool,
    /// Whether it is in the compact form.
    pub(crate) is_compact: bool,
    /// The text, which is JSON if it is not compact.
    pub(crate) token: String,
    /// The public keys of its group.
    pub(crate) keys: Vec<Value>,
}

/// Returns every vector of a file.
pub(crate) fn vectors(file: &str) -> Option<Vec<Vector>> {
    let Some(folder) = std::env::var_os("WYCHEPROOF_DIR") else {
        println!("SKIPPED: WYCHEPROOF_DIR is not set");
        return None;
    };
    let text = std::fs::read_to_string(Path::new(&folder).join(file)).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let mut vectors = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        // A symmetric key has no public half.
        let keys = group.get("public").unwrap_or(&group["private"]);
        let keys = keys["keys"].as_array().cloned().unwrap_or_else(|| vec![keys.clone()]);
        for test in group["tests"].as_array().unwrap() {
            let token = test.get("jws").unwrap_or(&test["jwe"]);
            vectors.push(Vector {
                number: test["tcId"].as_u64().unwrap(),
                is_valid: match test["result"].as_str() {
                    Some("valid") => true,
                    Some("invalid") => false,
                    other => panic!("unknown result: {other:?}"),
                },
                is_jwe: test.get("jwe").is_some(),
                is_compact: token.is_string(),
                token: token.as_str().map_or_else(|| token.to_string(), str::to_owned),
                keys: keys.clone(),
            });
        }
    }
    assert_eq!(file["numberOfTests"].as_u64(), u64::try_from(vectors.len()).ok());
    Some(vectors)
}
