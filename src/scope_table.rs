//! The scopes of a whole service in one table, by method and path.
//!
//! ```
//! use tower_cognito::{Access, RequireToken, ScopeTable};
//!
//! # fn example(verifier: tower_cognito::Verifier) -> Result<(), tower_cognito::ConfigError> {
//! let table = ScopeTable::new([
//!     ("GET  /health", Access::public()),
//!     ("POST /activity", Access::scope("activity/*")),
//!     ("GET  /item", Access::any_of(["item/read", "item/write"])),
//!     ("GET  /item/{id}", Access::any_of(["item/read", "item/write"])),
//!     ("PUT  /item/{id}", Access::scope("item/write")),
//!     ("ANY  /admin/{*rest}", Access::all_of(["admin/use", "item/write"])),
//!     ("GET  /me", Access::authenticated()),
//!     ("GRPC /grpc.health.v1.Health/{*method}", Access::public()),
//!     ("GRPC /activity.v1.Feed/Post", Access::scope("activity/*")),
//! ])?;
//! let layer = RequireToken::new(verifier).scope_table(table);
//! # Ok(())
//! # }
//! ```
//!
//! It is what the methods of an API Gateway stage say about scopes, and like there **everything
//! that is not named is refused**: 401 without a good token, 403 with one.
//!
//! | in a row | means |
//! | --- | --- |
//! | `GET` | the method, and `HEAD` too, unless a row of its own names that |
//! | `ANY` | every method that no other row names for this path |
//! | `GRPC` | `POST`, which is what gRPC sends, to `/package.Service/Method` |
//! | `/item` | this segment, byte for byte |
//! | `/{id}` | one segment that is not empty |
//! | `/{*rest}` | all that is left, and it is not empty |
//!
//! One path at most is chosen, read from the left: a segment by its name before a parameter, a
//! parameter before a wildcard. Then its rows decide, also when none has the method: a `DELETE
//! /item/7` is refused by the table above, and would be refused if there were a row for
//! `ANY /{*rest}` as well.
//!
//! # What the table and the router must read alike
//!
//! Paths are compared as they were sent, percent-encoding included, as axum's router does. A path
//! that has other segments for somebody who decodes it once is refused, whatever the table says:
//! with `//`, a `.` or `..` segment (also before a `;`), a backslash, `%2F`, `%2E`, `%5C`, a
//! control character, an escape that is none, or a segment that spells one named in the table with
//! other escapes or with more behind a `;`, `%3B`, `%3F` or `%23`. What a row with a wildcard
//! covers begins below it: `/admin` and `/admin/` are refused by a table that names
//! `/admin/{*rest}` alone, and never fall to a `/{*rest}`.
//!
//! A handler that decodes twice, folds case, passes over a slash at the end, or hands the path on
//! to a server that does, must look at it itself.
//!
//! The table sees the path that the layer sees, so it goes around the whole service:
//!
//! ```
//! use axum::Router;
//! use tower::Layer;
//! use tower_cognito::{RequireToken, ScopeTable, Verifier};
//!
//! # async fn example(
//! #     app: Router, listener: tokio::net::TcpListener, verifier: Verifier, table: ScopeTable,
//! # ) -> std::io::Result<()> {
//! let guarded = RequireToken::new(verifier).scope_table(table).layer(app);
//! axum::serve(listener, Router::new().fallback_service(guarded)).await
//! # }
//! ```
//!
//! As the last `.layer` of the outermost router it sees the same path, but routes and a fallback
//! that are added after it are open, as with any layer of axum's; and inside `nest`, axum has cut
//! the prefix off. What rewrites paths, such as tower-http's `NormalizePath`, goes around the whole
//! service too, outside of this, and never into `Router::layer`: axum has routed by then, and the
//! table would judge another path than the one that was routed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{ConfigError, InvalidScope};
use crate::scope::Requirement;

/// Which scopes a request needs, by its method and path. See the
/// [module docs](crate::scope_table).
#[derive(Clone, Debug)]
pub struct ScopeTable {
    root: Node,
}

/// What a row of a [`ScopeTable`] requirement_for for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Access(Result<RouteRequirement, InvalidScope>);

impl Access {
    /// Nothing. A token is not even looked at, so a bad one is not refused; unless
    /// [`allow_anonymous`](crate::RequireToken::allow_anonymous) is set, which makes the token
    /// optional on public rows.
    pub fn public() -> Self {
        Self(Ok(RouteRequirement::Public))
    }

    /// A good token, with whatever scopes.
    pub fn authenticated() -> Self {
        Self(Ok(RouteRequirement::Authenticated))
    }

    /// This scope.
    pub fn scope(scope: &str) -> Self {
        Self::of(Requirement::all_of([scope]))
    }

    /// At least one of these scopes.
    pub fn any_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(Requirement::any_of(scopes))
    }

    /// All of these scopes.
    pub fn all_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(Requirement::all_of(scopes))
    }

    /// Any scope of this resource server.
    pub fn any_of_resource_server(resource_server: &str) -> Self {
        Self::of(Requirement::any_of_resource_server(resource_server))
    }

    // A mistake is kept for `ScopeTable::new`, which reports all there are.
    fn of(requirement: Result<Requirement, InvalidScope>) -> Self {
        Self(requirement.map(|requirement| RouteRequirement::Scopes(Arc::new(requirement))))
    }
}

/// What a request has to show.
#[derive(Clone, Debug)]
pub(crate) enum RouteRequirement {
    Public,
    Authenticated,
    Scopes(Arc<Requirement>),
    /// No row matches the request, so it is rejected.
    NotListed,
}

impl ScopeTable {
    /// A table of these rows: a method and a path, and what they ask for.
    ///
    /// # Errors
    ///
    /// When a method, a path or a scope is malformed, or two rows name the same requests; lists
    /// everything that is wrong.
    pub fn new<'a>(rows: impl IntoIterator<Item = (&'a str, Access)>) -> Result<Self, ConfigError> {
        let mut table = Self { root: Node::default() };
        let mut problems = Vec::new();
        for (key, Access(requirement)) in rows {
            let mut problem = |what: String| problems.push(format!("scope table, `{key}`: {what}"));
            // A row with a bad scope is added as well, so that all else about it is found too.
            let requirement = requirement.unwrap_or_else(|error| {
                problem(error.to_string());
                RouteRequirement::NotListed
            });
            let added =
                parse(key).and_then(|(method, path)| table.root.add(&path, method, requirement));
            if let Err(what) = added {
                problem(what);
            }
        }
        if problems.is_empty() { Ok(table) } else { Err(ConfigError::new(problems)) }
    }

    /// What this request has to show.
    pub(crate) fn requirement_for(&self, method: &str, path: &str) -> &RouteRequirement {
        let rest = path.strip_prefix('/').filter(|_| is_unambiguous(path));
        match rest.map(|rest| self.root.find(Some(rest))) {
            Some(Ok(Found::Rows(rows))) => rows.of(method).unwrap_or(&RouteRequirement::NotListed),
            _ => &RouteRequirement::NotListed,
        }
    }
}

/// What may come next in a path.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The rows whose path ends here.
    rows: Rows,
    /// By the bytes that the name stands for, so that its other spellings are found as well.
    named: BTreeMap<Box<[u8]>, Named>,
    parameter: Option<Box<Self>>,
    wildcard: Rows,
}

#[derive(Clone, Debug)]
struct Named {
    spelling: Box<str>,
    node: Node,
}

/// The rows of one path, by method.
#[derive(Clone, Debug, Default)]
struct Rows(BTreeMap<Box<str>, RouteRequirement>);

#[derive(Debug, PartialEq, Eq)]
enum Segment<'k> {
    Named(&'k str),
    Parameter,
    Wildcard,
}

/// What a table has for a path.
enum Found<'t> {
    Rows(&'t Rows),
    /// Nothing; and no wildcard further up shall have it either.
    Blocked,
    Nothing,
}

/// A segment of the request spells one of the table with other escapes, or with more after it that
/// some readers cut off.
struct AmbiguousSegment;

impl Node {
    fn add(
        &mut self,
        path: &[Segment<'_>],
        method: &str,
        requirement: RouteRequirement,
    ) -> Result<(), String> {
        match path {
            [] => self.rows.add(method, requirement),
            [Segment::Wildcard, ..] => self.wildcard.add(method, requirement),
            [Segment::Parameter, rest @ ..] => {
                self.parameter.get_or_insert_default().add(rest, method, requirement)
            }
            [Segment::Named(name), rest @ ..] => {
                let spelt = || Named { spelling: (*name).into(), node: Self::default() };
                let named = self.named.entry(percent_decode(name).into()).or_insert_with(spelt);
                if *named.spelling != **name {
                    return Err("another row spells the same segment with other escapes".to_owned());
                }
                named.node.add(rest, method, requirement)
            }
        }
    }

    /// No deeper than the table is, and each node is looked at once at most.
    fn find(&self, path: Option<&str>) -> Result<Found<'_>, AmbiguousSegment> {
        let Some(path) = path else {
            return Ok(self.end());
        };
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (path, None),
        };
        let mut found = Found::Nothing;
        let name = percent_decode(segment);
        if let Some(named) = self.named.get(&*name) {
            if *named.spelling != *segment {
                return Err(AmbiguousSegment);
            }
            found = named.node.find(rest)?;
        } else if self.named.contains_key(strip_path_parameters(&name)) {
            return Err(AmbiguousSegment);
        }
        // `/a/` ends here, too, for the router that is spoken of at `end`.
        if path.is_empty() {
            return Ok(match (found, self.wildcard.if_any()) {
                (Found::Nothing, Some(_)) => Found::Blocked,
                (found, _) => found,
            });
        }
        if let (Found::Nothing | Found::Blocked, Some(parameter)) = (&found, &self.parameter) {
            let by_parameter = parameter.find(rest)?;
            if !matches!((&found, &by_parameter), (Found::Blocked, Found::Nothing)) {
                found = by_parameter;
            }
        }
        Ok(match (found, self.wildcard.if_any()) {
            (Found::Nothing, Some(rows)) => Found::Rows(rows),
            (found, _) => found,
        })
    }

    /// What there is where a path ends here. Routers that know `/a/{*rest}` often serve `/a` and
    /// `/a/` by it, too: where no row names those, they shall not fall to a wider wildcard.
    fn end(&self) -> Found<'_> {
        match (self.rows.if_any(), self.wildcard.if_any()) {
            (Some(rows), _) => Found::Rows(rows),
            (None, Some(_)) => Found::Blocked,
            (None, None) => Found::Nothing,
        }
    }
}

impl Rows {
    fn add(&mut self, method: &str, requirement: RouteRequirement) -> Result<(), String> {
        match self.0.insert(method.into(), requirement) {
            Some(_) => Err("another row names the same requests".to_owned()),
            None => Ok(()),
        }
    }

    fn if_any(&self) -> Option<&Self> {
        Some(self).filter(|rows| !rows.0.is_empty())
    }

    fn of(&self, method: &str) -> Option<&RouteRequirement> {
        let get_as_well = || self.0.get("GET").filter(|_| method == "HEAD");
        self.0.get(method).or_else(get_as_well).or_else(|| self.0.get("ANY"))
    }
}

fn parse(key: &str) -> Result<(&str, Vec<Segment<'_>>), String> {
    let mut words = key.split_ascii_whitespace();
    let (Some(method), Some(path), None) = (words.next(), words.next(), words.next()) else {
        return Err("not a method and a path, as in `GET /item/{id}`".to_owned());
    };
    if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err("a method is written in capitals, as in `GET /item/{id}`".to_owned());
    }
    let segments = parse_path(path)?;
    if method != "GRPC" {
        return Ok((method, segments));
    }
    match segments.as_slice() {
        [Segment::Named(_), Segment::Wildcard] => Ok(("POST", segments)),
        [Segment::Named(_), Segment::Named(method)] if !method.is_empty() => Ok(("POST", segments)),
        _ => Err("not a gRPC path, as in `GRPC /package.Service/Method`".to_owned()),
    }
}

fn parse_path(path: &str) -> Result<Vec<Segment<'_>>, String> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("a path begins with `/`".to_owned());
    };
    let is_in_a_path = |byte: u8| byte.is_ascii_graphic() && !br##"?#"<>\^`|"##.contains(&byte);
    if !path.bytes().all(is_in_a_path) || !is_unambiguous(path) {
        return Err("no request has this path, or one that could be read in two ways".to_owned());
    }
    let segments = rest.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?;
    match segments.iter().position(|segment| *segment == Segment::Wildcard) {
        Some(at) if at.saturating_add(1) < segments.len() => {
            Err("a `{*…}` stands at the end of a path alone".to_owned())
        }
        _ => Ok(segments),
    }
}

fn parse_segment(segment: &str) -> Result<Segment<'_>, String> {
    // Other routers write a parameter as `:name` or `*name`.
    if !segment.contains(['{', '}']) && !segment.starts_with([':', '*']) {
        return Ok(Segment::Named(segment));
    }
    let inside = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
    let (name, found) = match inside.map(|inside| (inside, inside.strip_prefix('*'))) {
        Some((_, Some(name))) => (name, Segment::Wildcard),
        Some((name, None)) => (name, Segment::Parameter),
        None => ("", Segment::Parameter),
    };
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_name { Ok(found) } else { Err("a parameter is `{name}` or `{*name}`".to_owned()) }
}

/// Whether nobody who decodes it once could read this path as another one.
fn is_unambiguous(path: &str) -> bool {
    // Some cut a segment off at `;`, before they look whether it is one of these.
    let is_odd = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if path.contains("//") || path.contains('\\') || path.split('/').any(is_odd) {
        return false;
    }
    path.split('%').skip(1).all(|escape| match decode_escape(escape) {
        Some(byte) => !matches!(byte, b'/' | b'.' | b'\\') && !byte.is_ascii_control(),
        None => false,
    })
}

/// What those read who cut parameters off (servlet containers do), or read a decoded path again.
fn strip_path_parameters(name: &[u8]) -> &[u8] {
    name.split(|byte| b";?#".contains(byte)).next().unwrap_or_default()
}

/// The byte of the two digits after a `%`.
fn decode_escape(digits: &str) -> Option<u8> {
    let digits = digits.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

fn percent_decode(segment: &str) -> Cow<'_, [u8]> {
    let mut pieces = segment.split('%');
    let first = pieces.next().unwrap_or_default();
    let mut bytes = Cow::Borrowed(first.as_bytes());
    for piece in pieces {
        bytes.to_mut().extend(decode_escape(piece));
        bytes.to_mut().extend(piece.as_bytes().iter().skip(2));
    }
    bytes
}
