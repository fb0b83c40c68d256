//! A table of required scopes and groups, as a tree of path segments. `path` decides which paths are ambiguous.

use std::collections::{BTreeMap, HashMap};

use crate::error::ConfigError;
use crate::path::{is_unambiguous, percent_decode, strip_path_parameters};
use crate::scope::{GroupRequirement, InvalidScope, Requirement};
use crate::verify::AccessToken;

/// Maps the method and the path of each request to the scopes and groups that it needs.
///
/// ```
/// use tower_cognito::{Access, RequireToken, ScopeTable};
///
/// # fn example(verifier: tower_cognito::Verifier) -> Result<(), tower_cognito::ConfigError> {
/// let table = ScopeTable::new([
///     ("GET  /health", Access::public()),
///     ("POST /activity", Access::scope("activity/*")),
///     ("GET  /item", Access::any_of(["item/read", "item/write"])),
///     ("GET  /item/{id}", Access::any_of(["item/read", "item/write"])),
///     ("PUT  /item/{id}", Access::scope("item/write")),
///     ("ANY  /admin/{*rest}", Access::all_of(["admin/use", "item/write"])),
///     ("GET  /me", Access::authenticated()),
///     ("ANY  /users/{*rest}", Access::group("support")),
///     ("GRPC /grpc.health.v1.Health/{*method}", Access::public()),
///     ("GRPC /activity.v1.Feed/Post", Access::scope("activity/*")),
/// ])?;
/// let layer = RequireToken::new(verifier).scope_table(table);
/// # Ok(())
/// # }
/// ```
///
/// A table contains the same information as the methods of an API Gateway stage. As in API Gateway,
/// **a request that matches no row is rejected**: with 401 if it has no valid token, and with 403 if
/// it has one.
///
/// # Rows
///
/// A row is a method, a path and the [`Access`] that it requires.
///
/// | in a row | matches |
/// | --- | --- |
/// | `GET` | `GET`, and also `HEAD` unless another row has `HEAD` and this path |
/// | `ANY` | every method that no other row with this path matches |
/// | `GRPC` | `POST`, the method of every gRPC call; the path must be `/package.Service/Method` |
/// | `/item` | this segment, byte for byte |
/// | `/{id}` | one segment, which must not be empty |
/// | `/{*rest}` | the rest of the path, which must not be empty |
///
/// # Matching
///
/// With the table above:
///
/// | request | result | why |
/// | --- | --- | --- |
/// | `GET /item/7` | requires `item/read` or `item/write` | `{id}` matches `7` |
/// | `GET /item/%37` | requires `item/read` or `item/write` | paths are compared as they were sent, and `{id}` matches `%37` |
/// | `DELETE /item/7` | rejected | the path matches `/item/{id}`, and no row with this path has `DELETE` |
/// | `GET /item/` | rejected | the second segment is empty, so neither `/item` nor `/item/{id}` matches |
/// | `GET /admin` | rejected | `/admin/{*rest}` matches only paths below `/admin/` |
/// | `GET /Item` | rejected | upper and lower case differ |
/// | `GET /%69tem` | rejected | ambiguous: a server that decodes the path reads `/item` |
/// | `GET /item;v=1` | rejected | ambiguous: a server that strips path parameters reads `/item` |
/// | `GET /item/..%2Fadmin` | rejected | ambiguous: a server that decodes the path reads `/admin` |
/// | `GET /item/..;/admin` | rejected | ambiguous: a server that strips path parameters reads `/admin` |
/// | `GET /;/admin` | rejected | ambiguous: a server that strips path parameters reads `//admin` |
///
/// The rule is: **only one path of the table decides about a request**. If several paths match, they
/// are compared segment by segment from the left, and a name wins over a parameter, and a parameter
/// over a wildcard. Only the rows with the chosen path are used, even if none of them has the
/// method: an additional row `ANY /{*rest}` would not allow `DELETE /item/7`.
///
/// A wildcard row such as `/admin/{*rest}` also keeps parameters and wider wildcards away from
/// `/admin` and `/admin/`: routers often serve these two paths with the same handler, as axum's `nest`
/// and `nest_service` do. Without their own rows, both paths are rejected, even if the table has a
/// row `/{page}` or `/{*rest}`. If your service has them, add a row for each.
///
/// # Ambiguous paths
///
/// A path is rejected, even if a row is public, if a server that percent-decodes it once and then
/// strips path parameters could read other segments than the table. Such a path contains one of
/// these:
///
/// * an empty segment before the last one (`//`);
/// * the segment `.` or `..`, or one that begins with it followed by `;`, `%3B`, `%3F` or `%23`, such
///   as `..;x`;
/// * a segment that begins with `;` or `%3B`;
/// * a backslash;
/// * `%2F`, `%2E`, `%5C`, an escaped control character, or a `%` without two hexadecimal digits;
/// * a segment that is not written like a segment of the table in the same place, but decodes to it,
///   or begins with it followed by `;`, `%3B`, `%3F` or `%23`.
///
/// **The table cannot protect a handler that changes the path in another way.** If a handler, or a
/// server that it forwards the path to, decodes the path twice, ignores case, or ignores a slash at
/// the end, then it must check the path itself.
///
/// # Placement
///
/// The table uses the path that the layer receives, so apply the layer to the whole service:
///
/// ```
/// use axum::Router;
/// use tower::Layer;
/// use tower_cognito::{RequireToken, ScopeTable, Verifier};
///
/// # async fn example(
/// #     app: Router, listener: tokio::net::TcpListener, verifier: Verifier, table: ScopeTable,
/// # ) -> std::io::Result<()> {
/// let guarded = RequireToken::new(verifier).scope_table(table).layer(app);
/// axum::serve(listener, Router::new().fallback_service(guarded)).await
/// # }
/// ```
///
/// * As the last `.layer` of the outermost router, the layer receives the same path. However, it
///   does not protect routes and a fallback that are added later; this is so for every layer of an
///   axum router.
/// * Inside `nest`, the layer receives the path without the prefix.
/// * Middleware that rewrites paths, such as tower-http's `NormalizePath`, must be outside this
///   layer, around the whole service. In `Router::layer` it would run after axum has chosen the
///   route, and the table would check a different path than the one that was routed.
#[derive(Clone, Debug)]
pub struct ScopeTable {
    root: Node,
    /// The rows whose paths have no parameters, so that most requests need no search.
    literals: HashMap<Box<str>, Rows>,
}

/// Describes what a row of a [`ScopeTable`] requires.
///
/// A malformed scope or group is reported by [`ScopeTable::new`], together with all other problems of
/// the table.
///
/// A row can require scopes, groups, or both:
///
/// ```
/// use tower_cognito::{Access, ScopeTable};
///
/// let table = ScopeTable::new([
///     ("GET /orders", Access::any_of_groups(["sales", "support"])),
///     ("DELETE /orders/{id}", Access::scope("orders/write").with_group("sales")),
///     ("ANY /admin/{*rest}", Access::group("admins").with_any_of_groups(["tokyo", "osaka"])),
/// ])?;
/// # Ok::<(), tower_cognito::ConfigError>(())
/// ```
///
/// A token without a required group is rejected with 403 and
/// [`RejectionKind::Forbidden`](crate::RejectionKind::Forbidden), also if it lacks a required scope:
/// another scope would not help. Machine-to-machine tokens have no groups.
#[derive(Clone, Debug)]
#[must_use]
pub struct Access(Result<RouteRequirement, String>);

impl Access {
    /// Allows requests without a token, and ignores a token that is sent, even an invalid one.
    ///
    /// With [`allow_anonymous`](crate::RequireToken::allow_anonymous), a token that is sent is
    /// verified, and an invalid one is rejected.
    pub fn public() -> Self {
        Self(Ok(RouteRequirement::Public))
    }

    /// Requires a valid token, with any scopes or none.
    pub fn authenticated() -> Self {
        Self(Ok(RouteRequirement::Authenticated))
    }

    /// Requires a valid token with this scope.
    pub fn scope(scope: &str) -> Self {
        Self::from_parsed(Requirement::all_of([scope]))
    }

    /// Requires a valid token with at least one of these scopes.
    ///
    /// A challenge names only the first of them: clients request every scope that a challenge names,
    /// and an issuer rejects a request for a scope that the client may not have. Put the least
    /// powerful scope first.
    pub fn any_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::from_parsed(Requirement::any_of(scopes))
    }

    /// Requires a valid token with all of these scopes.
    pub fn all_of<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::from_parsed(Requirement::all_of(scopes))
    }

    /// Requires a valid token with any scope of this resource server.
    pub fn any_of_resource_server(resource_server: &str) -> Self {
        Self::from_parsed(Requirement::any_of_resource_server(resource_server))
    }

    /// Requires a valid token of a user in this group (`cognito:groups`), with any scopes or none.
    ///
    /// Groups are compared byte for byte.
    pub fn group(group: &str) -> Self {
        Self::authenticated().with_group(group)
    }

    /// Requires a valid token of a user in at least one of these groups, with any scopes or none.
    pub fn any_of_groups<'a>(groups: impl IntoIterator<Item = &'a str>) -> Self {
        Self::authenticated().with_any_of_groups(groups)
    }

    /// Requires this group, too. If you call it several times, every group is required.
    ///
    /// A [public](Self::public) row cannot require a group: that is an error of the table.
    pub fn with_group(self, group: &str) -> Self {
        self.with_any_of_groups([group])
    }

    /// Requires at least one of these groups, too.
    ///
    /// A [public](Self::public) row cannot require a group: that is an error of the table.
    pub fn with_any_of_groups<'a>(self, groups: impl IntoIterator<Item = &'a str>) -> Self {
        let more = GroupRequirement::any_of(groups);
        Self(self.0.and_then(|requirement| {
            let more = more.map_err(str::to_owned)?;
            let (mut groups, scopes) = match requirement {
                RouteRequirement::Public | RouteRequirement::NotListed => {
                    return Err("a public row cannot require a group".to_owned());
                }
                RouteRequirement::Authenticated => (Vec::new(), None),
                RouteRequirement::Scopes(scopes) => (Vec::new(), Some(scopes)),
                RouteRequirement::Groups { groups, scopes } => (groups, scopes),
            };
            groups.push(more);
            Ok(RouteRequirement::Groups { groups, scopes })
        }))
    }

    // An error is kept for `ScopeTable::new`, which reports every problem of the table at once.
    fn from_parsed(requirement: Result<Requirement, InvalidScope>) -> Self {
        let requirement = requirement.map_err(|error| error.to_string());
        Self(requirement.map(|requirement| RouteRequirement::Scopes(requirement.interned())))
    }
}

/// The requirement of the layer for a request.
#[derive(Clone, Debug)]
pub(crate) enum RouteRequirement {
    Public,
    Authenticated,
    Scopes(&'static Requirement),
    /// All of these requirements for groups, and these scopes.
    Groups {
        groups: Vec<GroupRequirement>,
        scopes: Option<&'static Requirement>,
    },
    /// No row matches the request, so it is rejected.
    NotListed,
}

impl RouteRequirement {
    /// Returns the required scopes, if there are any.
    #[inline]
    pub(crate) fn scopes(&self) -> Option<&'static Requirement> {
        match self {
            Self::Scopes(scopes) => Some(scopes),
            Self::Groups { scopes, .. } => *scopes,
            Self::Public | Self::Authenticated | Self::NotListed => None,
        }
    }

    /// Returns `true` if a valid token satisfies the requirement.
    #[inline]
    pub(crate) fn is_met_by(&self, token: &AccessToken) -> bool {
        // Every request of a layer without a table: it is not worth a call.
        matches!(self, Self::Authenticated) || self.is_row_met_by(token)
    }

    fn is_row_met_by(&self, token: &AccessToken) -> bool {
        match self {
            Self::Public | Self::Authenticated => true,
            Self::Scopes(scopes) => scopes.is_met_by(token.scopes()),
            Self::Groups { groups, scopes } => {
                groups.iter().all(|groups| groups.is_met_by(token.groups()))
                    && scopes.iter().all(|scopes| scopes.is_met_by(token.scopes()))
            }
            Self::NotListed => false,
        }
    }
}

impl ScopeTable {
    /// Creates a table of these rows. The order of the rows does not matter.
    ///
    /// # Errors
    ///
    /// Returns an error if a method, a path, a scope or a group is malformed, if a public row requires
    /// a group, or if two rows match the same requests. The error lists every problem of the table.
    pub fn new<'a>(rows: impl IntoIterator<Item = (&'a str, Access)>) -> Result<Self, ConfigError> {
        let mut root = Node::default();
        let mut problems = Vec::new();
        for (key, Access(requirement)) in rows {
            let mut report = |problem: String| {
                problems.push(format!("scope table, `{key}`: {problem}"));
            };
            // Add a row with a malformed requirement too, so that its other problems are also found.
            let requirement = requirement.unwrap_or_else(|problem| {
                report(problem);
                RouteRequirement::NotListed
            });
            let added =
                parse_key(key).and_then(|(method, path)| root.add(&path, method, requirement));
            if let Err(problem) = added {
                report(problem);
            }
        }
        if problems.is_empty() {
            Ok(Self::from_root(root))
        } else {
            Err(ConfigError::new(problems))
        }
    }

    /// Returns `true` if a request with this method, path and token is allowed.
    ///
    /// [`RequireToken`](crate::RequireToken) makes the same decision. Use this where no request
    /// reaches a service, for example in a Lambda authorizer.
    ///
    /// ```
    /// use tower_cognito::{AccessToken, ScopeTable};
    ///
    /// fn may_read(table: &ScopeTable, token: &AccessToken) -> bool {
    ///     table.allows("GET", "/item/7", token)
    /// }
    /// ```
    pub fn allows(&self, method: &str, path: &str, token: &AccessToken) -> bool {
        self.requirement_for(method, path).is_met_by(token)
    }

    /// Returns every path of the table, for a gateway that needs a list of what a token may call.
    ///
    /// ```
    /// use tower_cognito::{Access, AccessToken, ScopeTable, TablePath};
    ///
    /// fn may_get(path: &TablePath<'_>, token: &AccessToken) -> Option<String> {
    ///     path.allows("GET", token).then(|| path.as_str().to_owned())
    /// }
    ///
    /// let table = ScopeTable::new([
    ///     ("PUT /item/{id}", Access::scope("item/write")),
    ///     ("GET /files/{*rest}", Access::authenticated()),
    /// ])?;
    /// let paths = table.paths();
    /// assert_eq!(paths[0].as_str(), "/files/{*}");
    /// assert_eq!(paths[1].as_str(), "/item/{}");
    /// # Ok::<(), tower_cognito::ConfigError>(())
    /// ```
    pub fn paths(&self) -> Vec<TablePath<'_>> {
        let mut paths = Vec::new();
        self.root.list("", &mut paths);
        paths
    }

    /// Adds the public row `GET` for the path of the metadata document, unless it has one.
    ///
    /// Returns an error if a row with this path requires a token, or if the table cannot match the
    /// path.
    pub(crate) fn with_public_document(self, path: &str) -> Result<Self, &'static str> {
        let rest = path.strip_prefix('/').filter(|_| is_unambiguous(path));
        let rest = rest.ok_or("the scope table cannot match the path of the metadata document")?;
        let mut root = self.root;
        let is_public = root.add_document(&mut rest.split('/'));
        is_public
            .then(|| Self::from_root(root))
            .ok_or("the scope table requires a token for the metadata document")
    }

    fn from_root(root: Node) -> Self {
        let mut literals = HashMap::new();
        root.add_literals("", &mut literals);
        Self { literals, root }
    }

    /// Returns what the request with this method and path requires.
    ///
    /// The search would find the same rows for a path that is exactly that of a row: such a path is
    /// not ambiguous, and a name wins over a parameter and a wildcard in every segment.
    pub(crate) fn requirement_for(&self, method: &str, path: &str) -> &RouteRequirement {
        let rows = self.literals.get(path).or_else(|| self.search(path));
        let requirement = rows.and_then(|rows| rows.for_method(method));
        requirement.unwrap_or(&RouteRequirement::NotListed)
    }

    fn search(&self, path: &str) -> Option<&Rows> {
        let rest = path.strip_prefix('/').filter(|_| is_unambiguous(path))?;
        match self.root.find(Some(rest)) {
            Ok(Found::Rows(rows)) => Some(rows),
            Ok(Found::Blocked | Found::Nothing) | Err(AmbiguousSegment) => None,
        }
    }
}

/// A path of a [`ScopeTable`], made by [`ScopeTable::paths`].
#[derive(Clone, Debug)]
pub struct TablePath<'t> {
    path: String,
    rows: &'t Rows,
}

impl TablePath<'_> {
    /// Returns the path. A parameter is written `{}`, and a wildcard `{*}`.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Returns `true` if a request with this method and token is allowed, for every request path for
    /// which this path of the table decides.
    pub fn allows(&self, method: &str, token: &AccessToken) -> bool {
        self.rows.for_method(method).is_some_and(|requirement| requirement.is_met_by(token))
    }
}

/// A position in the paths of the table: everything that may follow the segments before it.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The rows whose path ends here.
    rows: Rows,
    /// The named segments by their decoded bytes, so that other spellings are found too.
    named: BTreeMap<Box<[u8]>, Named>,
    parameter: Option<Box<Self>>,
    wildcard: Rows,
}

#[derive(Clone, Debug)]
struct Named {
    /// The segment as it is written in the table.
    spelling: Box<str>,
    node: Node,
}

/// The rows with one path, by method.
#[derive(Clone, Debug, Default)]
struct Rows(BTreeMap<Box<str>, RouteRequirement>);

#[derive(Debug, PartialEq, Eq)]
enum Segment<'k> {
    Named(&'k str),
    Parameter,
    Wildcard,
}

/// The result of the search for a path below one node.
enum Found<'t> {
    /// The path is in the table.
    Rows(&'t Rows),
    /// The path has no row, and is the root of a wildcard (`/a` or `/a/` of `/a/{*rest}`), so neither
    /// a parameter nor a wildcard further up may match it. See [`Node::find_end`].
    Blocked,
    /// The path has no row, and a parameter or a wildcard further up may match it.
    Nothing,
}

/// A segment of the request is another spelling of a segment in the table: it decodes to the same
/// bytes, or does so once path parameters are stripped.
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
                let new = || Named { spelling: (*name).into(), node: Self::default() };
                let named = self.named.entry(percent_decode(name).into()).or_insert_with(new);
                if *named.spelling != **name {
                    return Err(
                        "another row has the same segment with other percent-encoding".to_owned()
                    );
                }
                named.node.add(rest, method, requirement)
            }
        }
    }

    /// Adds a public row for these named segments. Returns `false` if a row prevents that.
    fn add_document<'p>(&mut self, path: &mut impl Iterator<Item = &'p str>) -> bool {
        let Some(name) = path.next() else {
            if let Some(requirement) = self.rows.for_method("GET") {
                return matches!(requirement, RouteRequirement::Public);
            }
            return self.rows.add("GET", RouteRequirement::Public).is_ok();
        };
        let new = || Named { spelling: name.into(), node: Self::default() };
        let named = self.named.entry(percent_decode(name).into()).or_insert_with(new);
        *named.spelling == *name && named.node.add_document(path)
    }

    /// Adds every path with a row at or below this node. `path` is the path of this node.
    fn list<'t>(&'t self, path: &str, paths: &mut Vec<TablePath<'t>>) {
        let mut add = |path: String, rows: &'t Rows| {
            paths.extend(rows.non_empty().map(|rows| TablePath { path, rows }));
        };
        add(path.to_owned(), &self.rows);
        add(format!("{path}/{{*}}"), &self.wildcard);
        for Named { spelling, node } in self.named.values() {
            node.list(&format!("{path}/{spelling}"), paths);
        }
        if let Some(parameter) = &self.parameter {
            parameter.list(&format!("{path}/{{}}"), paths);
        }
    }

    /// Adds the rows at and below this node whose paths have only named segments.
    fn add_literals(&self, path: &str, literals: &mut HashMap<Box<str>, Rows>) {
        if let Some(rows) = self.rows.non_empty() {
            literals.insert(path.into(), rows.clone());
        }
        for Named { spelling, node } in self.named.values() {
            node.add_literals(&format!("{path}/{spelling}"), literals);
        }
    }

    /// Finds the rows for a path, which is `None` after its last segment.
    ///
    /// The recursion is at most as deep as the table, and it visits each node at most once, so a
    /// long path cannot exhaust the stack or the processor.
    fn find(&self, path: Option<&str>) -> Result<Found<'_>, AmbiguousSegment> {
        let Some(path) = path else {
            return Ok(self.find_end());
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
        // The path ends with a slash. Parameters and wildcards do not match the empty segment after
        // it, but routers may serve this path by the wildcard: block it, as `find_end` does.
        if path.is_empty() {
            return Ok(match (found, self.wildcard.non_empty()) {
                (Found::Nothing, Some(_)) => Found::Blocked,
                (found, _) => found,
            });
        }
        // A path that the named segment has blocked stays blocked: axum's `nest` serves the root of a
        // wildcard before it looks at a parameter.
        if let (Found::Nothing, Some(parameter)) = (&found, &self.parameter) {
            found = parameter.find(rest)?;
        }
        Ok(match (found, self.wildcard.non_empty()) {
            (Found::Nothing, Some(rows)) => Found::Rows(rows),
            (found, _) => found,
        })
    }

    /// Finds the rows for a path that ends at this node.
    ///
    /// Routers that have `/a/{*rest}` often serve `/a` and `/a/` by it too. If no row has these
    /// paths, they are blocked, so that no wider row with a weaker requirement can match them.
    fn find_end(&self) -> Found<'_> {
        match (self.rows.non_empty(), self.wildcard.non_empty()) {
            (Some(rows), _) => Found::Rows(rows),
            (None, Some(_)) => Found::Blocked,
            (None, None) => Found::Nothing,
        }
    }
}

impl Rows {
    fn add(&mut self, method: &str, requirement: RouteRequirement) -> Result<(), String> {
        match self.0.insert(method.into(), requirement) {
            Some(_) => Err("another row matches the same requests".to_owned()),
            None => Ok(()),
        }
    }

    fn non_empty(&self) -> Option<&Self> {
        Some(self).filter(|rows| !rows.0.is_empty())
    }

    fn for_method(&self, method: &str) -> Option<&RouteRequirement> {
        let get_for_head = || self.0.get("GET").filter(|_| method == "HEAD");
        self.0.get(method).or_else(get_for_head).or_else(|| self.0.get("ANY"))
    }
}

/// Parses a method and a path, such as `GET /item/{id}`.
fn parse_key(key: &str) -> Result<(&str, Vec<Segment<'_>>), String> {
    let mut words = key.split_ascii_whitespace();
    let (Some(method), Some(path), None) = (words.next(), words.next(), words.next()) else {
        return Err("not a method and a path, such as `GET /item/{id}`".to_owned());
    };
    if !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err("the method is not in capital letters, such as `GET`".to_owned());
    }
    let segments = parse_path(path)?;
    if method != "GRPC" {
        return Ok((method, segments));
    }
    match segments.as_slice() {
        [Segment::Named(_), Segment::Wildcard] => Ok(("POST", segments)),
        [Segment::Named(_), Segment::Named(method)] if !method.is_empty() => Ok(("POST", segments)),
        _ => Err("not a gRPC path, such as `/package.Service/Method`".to_owned()),
    }
}

fn parse_path(path: &str) -> Result<Vec<Segment<'_>>, String> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("the path does not begin with `/`".to_owned());
    };
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !br##"?#"<>\^`|"##.contains(&byte);
    if !path.bytes().all(is_allowed) || !is_unambiguous(path) {
        return Err("the path is ambiguous, or has a character that is not allowed in a URL path"
            .to_owned());
    }
    let segments = rest.split('/').map(parse_segment).collect::<Result<Vec<_>, _>>()?;
    match segments.iter().position(|segment| *segment == Segment::Wildcard) {
        Some(at) if at.saturating_add(1) < segments.len() => {
            Err("`{*name}` is not at the end of the path".to_owned())
        }
        _ => Ok(segments),
    }
}

fn parse_segment(segment: &str) -> Result<Segment<'_>, String> {
    // Other routers write a parameter as `:name` or `*name`: report these, because as
    // names they would match only themselves.
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
    if is_name {
        Ok(found)
    } else {
        Err("a parameter is not a segment of the form `{name}` or `{*name}`".to_owned())
    }
}
