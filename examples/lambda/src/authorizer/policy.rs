//! The policy that API Gateway evaluates, and may cache for other requests with the same token.
//!
//! In a policy, `*` matches any text, including `/`, and a `Deny` wins over an `Allow`. So the policy
//! of `/item/{id}` is `item/*`, and a longer path of the table that the token may not call is denied
//! explicitly.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tower_cognito::{AccessToken, ScopeTable};

/// The methods of a REST API.
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// A method and a path of the table.
struct Row {
    method: &'static str,
    path: Vec<Segment>,
    is_allowed: bool,
    /// Whether the policy has its pattern.
    is_listed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Name(String),
    /// One segment of any name.
    One,
    /// One or more segments.
    Rest,
}

impl Row {
    /// Returns the paths that the pattern of this row matches in a policy.
    fn pattern(&self) -> Vec<Segment> {
        let segments = self.path.iter().cloned();
        segments.map(|one| if one == Segment::One { Segment::Rest } else { one }).collect()
    }

    /// Returns `true` if the pattern of this row matches a path that the other row decides about. A row
    /// without a parameter has one path, about which no other row decides.
    fn covers(&self, other: &Self) -> bool {
        self.has_parameter() && self.method == other.method && overlap(&self.pattern(), &other.path)
    }

    /// Returns `true` if the pattern of this denied row matches a path that the other row allows.
    fn denies(&self, other: &Self) -> bool {
        // The pattern of such a row matches exactly its paths, and it may win over the other row.
        let is_exact = !self.path.contains(&Segment::One);
        self.covers(other) && !(is_exact && self.wins_over(other))
    }

    /// Returns `true` if this row decides about the paths that both match: from the left, a name wins
    /// over a parameter, and a parameter over a wildcard.
    fn wins_over(&self, other: &Self) -> bool {
        let rank = |segment: &Segment| match segment {
            Segment::Name(_) => 0,
            Segment::One => 1,
            Segment::Rest => 2,
        };
        self.path.iter().map(rank).lt(other.path.iter().map(rank))
    }

    fn has_parameter(&self) -> bool {
        self.path.iter().any(|segment| !matches!(segment, Segment::Name(_)))
    }

    /// Returns the pattern as text, or `None` if a name has a character that a policy does not take
    /// literally.
    fn text(&self) -> Option<String> {
        let segments = self.path.iter().map(|segment| match segment {
            Segment::Name(name) => is_literal(name).then_some(&**name),
            Segment::One | Segment::Rest => Some("*"),
        });
        Some(segments.collect::<Option<Vec<_>>>()?.join("/"))
    }
}

/// Returns `true` if some path has both forms.
fn overlap(one: &[Segment], other: &[Segment]) -> bool {
    let ([first, rest @ ..], [second, others @ ..]) = (one, other) else {
        return one.is_empty() && other.is_empty();
    };
    if let (Segment::Name(first), Segment::Name(second)) = (first, second)
        && first != second
    {
        return false;
    }
    overlap(rest, others)
        || (*first == Segment::Rest && overlap(one, others))
        || (*second == Segment::Rest && overlap(rest, other))
}

fn is_literal(text: &str) -> bool {
    !text.contains(['*', '?', '$'])
}

/// Returns the rows of the table for this token, and which of them the policy lists.
fn rows(table: &ScopeTable, token: &AccessToken) -> Vec<Row> {
    let mut rows = Vec::new();
    for path in table.paths() {
        let segments = path.as_str().split('/').skip(1).map(|segment| match segment {
            "{}" => Segment::One,
            "{*}" => Segment::Rest,
            name => Segment::Name(name.to_owned()),
        });
        let segments = segments.collect::<Vec<_>>();
        for method in METHODS {
            let is_allowed = path.allows(method, token);
            rows.push(Row { method, path: segments.clone(), is_allowed, is_listed: false });
        }
    }
    // A denied path that cannot be denied without an allowed one stays out of every pattern.
    let cannot_be_denied = |denied: &&Row| {
        let denies_more = || rows.iter().any(|row| row.is_allowed && denied.denies(row));
        !denied.is_allowed && (denied.text().is_none() || denies_more())
    };
    let conflicts = rows.iter().filter(cannot_be_denied).collect::<Vec<_>>();
    let is_listed = |row: &Row| row.is_allowed && !conflicts.iter().any(|other| row.covers(other));
    let listed = rows.iter().map(is_listed).collect::<Vec<_>>();
    for (row, is_listed) in rows.iter_mut().zip(listed) {
        row.is_listed = is_listed;
    }
    rows
}

/// Returns the policy document for a valid token: everything that the token may call, and whether it
/// may make this request, which is at `METHOD/PATH` of the stage.
pub(crate) fn policy(
    table: &ScopeTable,
    token: &AccessToken,
    stage: &str,
    method: &str,
    path: &str,
) -> Value {
    let rows = rows(table, token);
    let listed = || rows.iter().filter(|row| row.is_listed);
    let denied =
        rows.iter().filter(|row| !row.is_allowed && listed().any(|listed| listed.covers(row)));
    let mut allow = Patterns::of(listed());
    let mut deny = Patterns::of(denied);
    // Also correct if no row decides about this path, or its pattern is not listed.
    let this = if table.allows(method, path, token) { &mut allow } else { &mut deny };
    let rest = path.strip_prefix('/').unwrap_or(path);
    if !is_literal(rest) || !is_literal(method) {
        return deny_all(stage);
    }
    this.add(method, rest.to_owned());
    let statements = [("Allow", allow), ("Deny", deny)].into_iter().filter_map(|(effect, them)| {
        let resources = them.resources(stage);
        (!resources.is_empty()).then(|| statement(effect, &resources))
    });
    document(statements.collect())
}

/// Returns the policy that denies everything in the stage.
pub(crate) fn deny_all(stage: &str) -> Value {
    document(vec![statement("Deny", &[format!("{stage}/*")])])
}

/// Returns the policy that allows only this resource.
pub(crate) fn allow_only(resource: &str) -> Value {
    document(vec![statement("Allow", &[resource.to_owned()])])
}

fn document(statements: Vec<Value>) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn statement(effect: &str, resources: &[String]) -> Value {
    json!({ "Effect": effect, "Action": "execute-api:Invoke", "Resource": resources })
}

/// The methods of each pattern of paths.
struct Patterns(BTreeMap<String, Vec<String>>);

impl Patterns {
    fn of<'r>(rows: impl Iterator<Item = &'r Row>) -> Self {
        let mut patterns = Self(BTreeMap::new());
        for row in rows {
            if let Some(text) = row.text() {
                patterns.add(row.method, text);
            }
        }
        patterns
    }

    fn add(&mut self, method: &str, path: String) {
        let methods = self.0.entry(path).or_default();
        if !methods.iter().any(|known| known == method) {
            methods.push(method.to_owned());
        }
    }

    /// Returns the resources, each with its method: `*` in place of the method would also match the
    /// first segments of a longer path.
    fn resources(&self, stage: &str) -> Vec<String> {
        let each = self.0.iter().flat_map(|(path, methods)| {
            methods.iter().map(move |method| format!("{stage}/{method}/{path}"))
        });
        each.collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use tower_cognito::{Access, ClientIds, Rules, TestIssuer, Verifier};

    use super::*;

    const STAGE: &str = "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod";

    fn token(scope: &str) -> AccessToken {
        let issuer = TestIssuer::new();
        let rules = Rules::new(issuer.user_pool(), ClientIds::any());
        let verifier = Verifier::builder(rules).build_with_jwks(issuer.jwks()).unwrap();
        verifier.try_verify(&issuer.machine_token("client").scope(scope).sign()).unwrap()
    }

    /// Returns `true` if `*` in the pattern can stand for parts of the text.
    fn matches(pattern: &str, text: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == text,
            Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
                (0..=text.len()).any(|at| text.is_char_boundary(at) && matches(rest, &text[at..]))
            }),
        }
    }

    /// Evaluates a policy as API Gateway does.
    fn allows(policy: &Value, method: &str, path: &str) -> bool {
        let arn = format!("{STAGE}/{method}{path}");
        let has = |effect: &str| {
            let statements = policy["Statement"].as_array().unwrap();
            let mut ours = statements.iter().filter(|statement| statement["Effect"] == effect);
            ours.any(|statement| {
                let mut resources = statement["Resource"].as_array().unwrap().iter();
                resources.any(|resource| matches(resource.as_str().unwrap(), &arn))
            })
        };
        has("Allow") && !has("Deny")
    }

    fn table(rows: &[(&str, bool)]) -> ScopeTable {
        let access = |is_allowed| Access::scope(if is_allowed { "a/yes" } else { "a/no" });
        ScopeTable::new(rows.iter().map(|(key, is_allowed)| (*key, access(*is_allowed)))).unwrap()
    }

    #[test]
    fn policy_lists_what_the_token_may_call() {
        let token = token("a/yes");
        let table = table(&[
            ("GET /item", true),
            ("POST /item", false),
            ("GET /item/{id}", true),
            ("GET /item/{id}/secret", false),
            ("PUT /files/{*rest}", true),
            ("GET /item/all", false),
        ]);
        let policy = policy(&table, &token, STAGE, "GET", "/item/7");
        let resources = |effect: usize| {
            let resources = policy["Statement"][effect]["Resource"].as_array().unwrap();
            let text = |one: &Value| one.as_str().unwrap()[STAGE.len()..].to_owned();
            resources.iter().map(text).collect::<Vec<_>>()
        };
        let allowed = [
            "/PUT/files/*",
            "/GET/item",
            "/HEAD/item",
            "/GET/item/*",
            "/HEAD/item/*",
            "/GET/item/7",
        ];
        assert_eq!(resources(0), allowed);
        let denied =
            ["/GET/item/*/secret", "/HEAD/item/*/secret", "/GET/item/all", "/HEAD/item/all"];
        assert_eq!(resources(1), denied);
    }

    #[test]
    fn row_for_every_method_allows_no_longer_path() {
        let token = token("a/yes");
        let table = table(&[("ANY /item", true), ("GET /admin/item", false)]);
        let policy = policy(&table, &token, STAGE, "GET", "/item");
        for method in METHODS {
            assert!(allows(&policy, method, "/item"), "{method}");
            assert!(!allows(&policy, method, "/admin/item"), "{method}: {policy}");
        }
    }

    #[test]
    fn wildcard_that_cannot_be_limited_is_not_listed() {
        let token = token("a/yes");
        let table = table(&[("GET /{*rest}", true), ("GET /admin/{*rest}", false)]);
        let policy = policy(&table, &token, STAGE, "GET", "/a");
        assert!(allows(&policy, "GET", "/a") && allows(&policy, "GET", "/b"));
        assert!(!allows(&policy, "GET", "/admin/x"));

        let table = self::table(&[("GET /{*rest}", true), ("GET /{a}/admin", false)]);
        let policy = self::policy(&table, &token, STAGE, "GET", "/a/b/admin");
        assert!(allows(&policy, "GET", "/a/b/admin"), "the request itself");
        assert!(!allows(&policy, "GET", "/b/admin"));
    }

    #[test]
    fn character_that_a_policy_does_not_take_literally_denies_everything() {
        let token = token("a/yes");
        let table = table(&[("GET /item/{id}", true), ("GET /item/secret", false)]);
        for path in ["/item/*", "/item/secre?", "/item/$", "/item/${*}"] {
            let policy = policy(&table, &token, STAGE, "GET", path);
            assert_eq!(policy, deny_all(STAGE), "{path}");
        }
    }

    /// Every table of up to three of these rows, every request, and the policy of every request.
    #[test]
    fn policy_agrees_with_every_table() {
        let token = token("a/yes");
        let paths = ["/a", "/a/b", "/{x}", "/a/{x}", "/{x}/b", "/{x}/{y}/b", "/a/{*z}", "/{*z}"];
        let requests =
            ["/a", "/b", "/a/b", "/a/c", "/b/b", "/b/c", "/a/b/b", "/b/c/b", "/a/b/c", "/b/b/b/b"];
        let (mut cached, mut kept) = (0, 0);
        for choice in 0..3_u32.pow(8) {
            let access = (0..8).map(|at| choice / 3_u32.pow(at) % 3);
            let keys = paths.iter().zip(access).filter(|(_, access)| *access > 0);
            let keys = keys.map(|(path, access)| (format!("GET {path}"), access == 1));
            let keys = keys.collect::<Vec<_>>();
            if keys.len() > 3 || keys.is_empty() {
                continue;
            }
            let rows = keys.iter().map(|(key, may)| (&**key, *may)).collect::<Vec<_>>();
            let table = table(&rows);
            // Paths about which a row decides, also if only without a scope.
            let any_scope = rows.iter().map(|(key, _)| (*key, true)).collect::<Vec<_>>();
            let listed = self::table(&any_scope);
            for this in requests {
                let policy = policy(&table, &token, STAGE, "GET", this);
                let may = table.allows("GET", this, &token);
                assert_eq!(allows(&policy, "GET", this), may, "{this} of {rows:?}: {policy}");
                for other in requests {
                    let is_allowed = allows(&policy, "GET", other);
                    let may = table.allows("GET", other, &token);
                    let is_in_table = listed.allows("GET", other, &token);
                    assert!(
                        may || !is_allowed || !is_in_table,
                        "{other} with the policy for {this} of {rows:?}: {policy}"
                    );
                    cached += usize::from(may);
                    kept += usize::from(may && is_allowed);
                }
            }
        }
        // The rest are requests of tables whose rows overlap in every way.
        assert!(kept * 3 > cached * 2, "{kept} of {cached} requests need no policy of their own");
    }
}
