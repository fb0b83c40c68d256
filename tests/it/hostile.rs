//! The page of hostile inputs: it names each of them, and the tests that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::tidy::{files_below, is_rust, root};

const PAGE: &str = include_str!("../../src/docs/hostile.md");

/// Whose row gives a reason instead of a test.
const WITHOUT_A_TEST: usize = 77;

/// The cells of each row of the first table, by its number.
fn rows() -> Vec<(usize, Vec<&'static str>)> {
    let cells =
        |line: &'static str| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    let rows = PAGE.lines().filter(|line| line.starts_with("| ")).map(cells);
    rows.filter_map(|row| Some((row[0].parse().ok()?, row))).collect()
}

/// Every test, as the page names it.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let files = [files_below("tests/it"), files_below("src")].concat();
    let unified = root().join("tests/feature_unification/lib.rs");
    for path in files.into_iter().filter(|path| is_rust(path)).chain([unified]) {
        let module = path.strip_prefix(root()).unwrap().with_extension("");
        let module = module.to_str().unwrap().replace(['/', '\\'], "::");
        let module = module.strip_prefix("tests::it::").unwrap_or(&module);
        let module = module.strip_prefix("tests::").unwrap_or(module);
        let text = fs::read_to_string(&path).unwrap();
        let is_test = |line: &str| line.starts_with("#[test]") || line.contains("::test");
        let mut is_next = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[") {
                is_next |= is_test(line);
                continue;
            }
            let function = line.split_once("fn ").filter(|_| is_next);
            if let Some((_, name)) = function {
                let name = name.split('(').next().unwrap();
                tests.insert(format!("{module}::{name}"));
            }
            is_next = false;
        }
    }
    assert!(tests.len() > 400, "the tests were not found: {}", tests.len());
    tests
}

/// The numbers that a test's name begins with.
fn numbers(test: &str) -> Vec<usize> {
    let mut name = test.rsplit("::").next().unwrap();
    let mut numbers = Vec::new();
    while let Some((first, rest)) = name.split_once('_') {
        let Some(number) = first.strip_prefix('h').filter(|digits| digits.len() == 3) else {
            break;
        };
        let Ok(number) = number.parse() else { break };
        numbers.push(number);
        name = rest;
    }
    numbers
}

#[test]
fn each_input_has_one_row() {
    let numbers = rows().iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    for (number, row) in rows() {
        assert_eq!(row.len(), 6, "{number}");
        assert!(!row[1].is_empty() && !row[2].is_empty(), "{number}");
    }
}

#[test]
fn each_row_names_its_tests_and_each_test_is_named() {
    let tests = tests();
    let mut expected = BTreeMap::<_, BTreeSet<_>>::new();
    for test in &tests {
        for number in numbers(test) {
            expected.entry(number).or_default().insert(test.as_str());
        }
    }
    assert!(expected.keys().all(|number| (1..=100).contains(number)), "{:?}", expected.keys());
    for (number, row) in rows() {
        let named = row[5].split('`').skip(1).step_by(2).collect::<BTreeSet<_>>();
        for test in &named {
            assert!(!test.contains("::") || tests.contains(*test), "{number}: no test {test}");
        }
        let expected = expected.remove(&number).unwrap_or_default();
        if number == WITHOUT_A_TEST {
            assert!(row[5].starts_with("none: ") && expected.is_empty(), "{number}");
            continue;
        }
        assert!(!expected.is_empty(), "{number} has no test");
        assert_eq!(named, expected, "{number}");
    }
}

#[test]
fn each_item_of_rfc_8725_is_there() {
    let rows = rows();
    let cells = rows.iter().flat_map(|(_, row)| row[3].split([',', ';'])).map(str::trim);
    let others = PAGE.split("| RFC 8725 section ").skip(1);
    let others = others.filter_map(|rest| rest.split(' ').next());
    let items = cells.chain(others).collect::<BTreeSet<_>>();
    for item in 1..=12 {
        let item = format!("3.{item}");
        assert!(items.contains(&*item), "{item}");
    }
}
