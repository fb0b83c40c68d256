//! Scopes, and the rule that decides whether a token has the required ones.
//!
//! A scope is an opaque, case-sensitive text ([RFC 6749 section 3.3]). Cognito's scopes have the
//! form `{resource server identifier}/{name}`, and `*` is an ordinary name: only the scope
//! `activity/*` itself meets a requirement of `activity/*`. The `authorizationScopes` of API Gateway
//! work in the same way.
//!
//! [RFC 6749 section 3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::str::{FromStr, Split};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Describes a text that is not one scope token of [RFC 6749 section 3.3].
///
/// [RFC 6749 section 3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidScope {
    problem: &'static str,
}

impl InvalidScope {
    fn new(problem: &'static str) -> Self {
        Self { problem }
    }
}

impl fmt::Display for InvalidScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid scope: {}; expected a scope such as `activity/*`", self.problem)
    }
}

impl Error for InvalidScope {}

/// A single scope, such as `activity/*`.
///
/// ```
/// use tower_cognito::Scope;
///
/// let scope: Scope = "activity/*".parse()?;
/// assert_eq!(scope.as_str(), "activity/*");
/// assert!("activity/* activity/read".parse::<Scope>().is_err());
/// # Ok::<(), tower_cognito::InvalidScope>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Box<str>);

impl Scope {
    /// Returns the scope as it is written in a token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    /// Parses a single scope.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is empty, or contains a character other than
    /// `%x21 / %x23-5B / %x5D-7E` (RFC 6749 section 3.3).
    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        check_scope_token(text).map_err(InvalidScope::new)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scopes of a token, in the order of its `scope` claim.
///
/// Two values are equal if they list the same scopes in the same order.
///
/// ```
/// # fn example(token: tower_cognito::AccessToken) {
/// for scope in token.scopes() {
///     println!("{scope}");
/// }
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Scopes<'t> {
    text: &'t str,
}

impl<'t> Scopes<'t> {
    /// Reads the value of a `scope` claim: scopes separated by U+0020.
    pub(crate) fn from_claim(text: &'t str) -> Self {
        Self { text }
    }

    /// Returns `true` if the token has exactly this scope.
    pub fn contains(&self, scope: &str) -> bool {
        self.iter().any(|granted| granted == scope)
    }

    /// Does the same as [`contains`](Self::contains), with a fast path for a token that has no other
    /// scope, as is usual for a machine-to-machine client.
    #[inline]
    fn contains_scope(&self, scope: &Scope) -> bool {
        self.text == scope.as_str() || self.contains(scope.as_str())
    }

    /// Returns an iterator over the scopes.
    pub fn iter(&self) -> ScopesIter<'t> {
        ScopesIter { pieces: self.text.split(' ') }
    }
}

impl<'t> IntoIterator for Scopes<'t> {
    type Item = &'t str;
    type IntoIter = ScopesIter<'t>;

    fn into_iter(self) -> ScopesIter<'t> {
        self.iter()
    }
}

impl<'t> IntoIterator for &Scopes<'t> {
    type Item = &'t str;
    type IntoIter = ScopesIter<'t>;

    fn into_iter(self) -> ScopesIter<'t> {
        self.iter()
    }
}

impl PartialEq for Scopes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Scopes<'_> {}

/// An iterator over the scopes of a token, made by [`Scopes::iter`].
#[derive(Clone)]
pub struct ScopesIter<'t> {
    pieces: Split<'t, char>,
}

impl<'t> Iterator for ScopesIter<'t> {
    type Item = &'t str;

    #[inline]
    fn next(&mut self) -> Option<&'t str> {
        // Several spaces in a row have empty pieces between them.
        self.pieces.find(|piece| !piece.is_empty())
    }
}

impl fmt::Debug for ScopesIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only `Scopes` itself prints the scopes of a token (SECURITY.md).
        f.debug_struct("ScopesIter").finish_non_exhaustive()
    }
}

impl fmt::Debug for Scopes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The requirements of this process, each one once.
static REQUIREMENTS: LazyLock<Mutex<HashSet<&'static Requirement>>> = LazyLock::new(Mutex::default);

/// The scopes that a route requires.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Requirement {
    AllOf(Box<[Scope]>),
    AnyOfResourceServer(Box<str>),
    AnyOf(Box<[Scope]>),
}

impl Requirement {
    pub(crate) fn all_of<'a>(
        scopes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidScope> {
        Ok(Self::AllOf(parse_all(scopes)?))
    }

    pub(crate) fn any_of<'a>(
        scopes: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidScope> {
        Ok(Self::AnyOf(parse_all(scopes)?))
    }

    /// Creates a requirement of any scope of this resource server.
    pub(crate) fn any_of_resource_server(resource_server: &str) -> Result<Self, InvalidScope> {
        check_scope_token(resource_server).map_err(InvalidScope::new)?;
        Ok(Self::AnyOfResourceServer(resource_server.into()))
    }

    /// Returns the requirement whose scopes are literals in the caller's source.
    ///
    /// # Panics
    ///
    /// Panics if one of the scopes is malformed.
    #[track_caller]
    #[expect(clippy::panic, reason = "it is the caller's source that is wrong")]
    pub(crate) fn parse_or_panic(parsed: Result<Self, InvalidScope>) -> Self {
        // A closure (`unwrap_or_else`) would hide the line of the caller.
        match parsed {
            Ok(requirement) => requirement,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns the copy of this requirement that is kept until the process ends.
    ///
    /// The response of a request may name the requirements of the layers that it has passed. If each
    /// request counted a reference for that, all threads would change the same counter, which takes
    /// longer than the check of the scopes.
    pub(crate) fn interned(self) -> &'static Self {
        let mut all = REQUIREMENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&self) {
            return known;
        }
        let new = Box::leak(Box::new(self));
        all.insert(new);
        new
    }

    /// Returns `true` if these scopes meet the requirement. Every scope check of the crate is made
    /// here.
    #[inline]
    pub(crate) fn is_met_by(&self, granted: Scopes<'_>) -> bool {
        match self {
            Self::AllOf(scopes) => scopes.iter().all(|scope| granted.contains_scope(scope)),
            Self::AnyOf(scopes) => scopes.iter().any(|scope| granted.contains_scope(scope)),
            // A resource server identifier may contain `/`, but a scope name may not (AWS,
            // ResourceServerScopeType), so the name begins after the last `/`.
            Self::AnyOfResourceServer(server) => granted.iter().any(|scope| {
                scope
                    .rsplit_once('/')
                    .is_some_and(|(identifier, name)| identifier == &**server && !name.is_empty())
            }),
        }
    }

    /// Returns the scopes to list in a challenge. They are unknown if any scope of a resource server
    /// is accepted.
    pub(crate) fn scopes(&self) -> &[Scope] {
        match self {
            Self::AllOf(scopes) | Self::AnyOf(scopes) => scopes,
            Self::AnyOfResourceServer(_) => &[],
        }
    }
}

/// Groups (`cognito:groups`) of which a token must have at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRequirement(Box<[Box<str>]>);

impl GroupRequirement {
    /// Any text but the empty one can be a group: a pre token generation trigger sets them freely.
    pub(crate) fn any_of<'a>(
        groups: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, &'static str> {
        let groups = groups.into_iter().map(Box::from).collect::<Box<[Box<str>]>>();
        if groups.is_empty() {
            // No token would meet the requirement.
            return Err("the list of groups is empty");
        }
        if groups.iter().any(|group| group.is_empty()) {
            return Err("a group is empty");
        }
        Ok(Self(groups))
    }

    /// Returns `true` if one of these groups, compared byte for byte, meets the requirement.
    pub(crate) fn is_met_by<'a>(&self, mut groups: impl Iterator<Item = &'a str>) -> bool {
        groups.any(|group| self.0.iter().any(|required| **required == *group))
    }
}

fn parse_all<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Box<[Scope]>, InvalidScope> {
    let scopes = scopes.into_iter().map(str::parse).collect::<Result<Box<[_]>, _>>()?;
    // Every token would meet an empty `all_of`.
    if scopes.is_empty() {
        Err(InvalidScope::new("the list of scopes is empty"))
    } else {
        Ok(scopes)
    }
}

fn check_scope_token(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains(' ') {
        return Err("it contains a space, so it is more than one scope");
    }
    if !text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
        return Err(
            "it contains a quote, a backslash, a control character or a non-ASCII character",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_requirements_are_kept_once() {
        let all_of = || Requirement::all_of(["scope/kept", "once"]).unwrap().interned();
        assert!(std::ptr::eq(all_of(), all_of()));
        let any_of = Requirement::any_of(["scope/kept", "once"]).unwrap().interned();
        assert_ne!(any_of, all_of());
        assert!(matches!(any_of, Requirement::AnyOf(_)));
    }
}
