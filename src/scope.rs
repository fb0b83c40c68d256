//! Scopes, and the one rule by which a requirement is met.
//!
//! A scope is an opaque, case-sensitive text ([RFC 6749 section 3.3]). Cognito writes
//! `{resource server identifier}/{name}`, and `*` is an ordinary name: a requirement of
//! `activity/*` is met by the scope that is literally named `activity/*` and by nothing else,
//! exactly as API Gateway's `authorizationScopes` has it.
//!
//! [RFC 6749 section 3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3

use std::fmt;
use std::str::FromStr;

use crate::error::InvalidScope;

/// One scope, such as `activity/*`.
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
    /// The scope as it stands in a token.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    /// # Errors
    ///
    /// When the text is empty or holds anything but `%x21 / %x23-5B / %x5D-7E`.
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

/// The scopes of a token, in the order in which the token names them.
#[derive(Clone, Copy)]
pub struct Scopes<'t> {
    text: &'t str,
}

impl<'t> Scopes<'t> {
    /// Reads the value of a `scope` claim: pieces between U+0020, empty ones skipped.
    pub(crate) fn from_claim(text: &'t str) -> Self {
        Self { text }
    }

    /// Whether exactly this scope is among them.
    pub fn contains(&self, scope: &str) -> bool {
        self.iter().any(|granted| granted == scope)
    }

    /// [`contains`](Self::contains) for one scope that is known to be one, as a machine's token
    /// often has no other.
    #[inline]
    fn contains_scope(&self, scope: &Scope) -> bool {
        self.text == scope.as_str() || self.contains(scope.as_str())
    }

    /// Each scope.
    pub fn iter(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.text.split(' ').filter(|piece| !piece.is_empty())
    }
}

impl fmt::Debug for Scopes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What a route asks of a token's scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// Any scope of this resource server.
    pub(crate) fn any_of_resource_server(resource_server: &str) -> Result<Self, InvalidScope> {
        check_scope_token(resource_server).map_err(InvalidScope::new)?;
        Ok(Self::AnyOfResourceServer(resource_server.into()))
    }

    /// Of literals in the caller's source.
    ///
    /// # Panics
    ///
    /// When one of them is malformed.
    #[track_caller]
    #[expect(clippy::panic, reason = "it is the caller's source that is wrong")]
    pub(crate) fn literal(requirement: Result<Self, InvalidScope>) -> Self {
        // Not in a closure, which would hide where the caller is.
        match requirement {
            Ok(requirement) => requirement,
            Err(problem) => panic!("{problem}"),
        }
    }

    /// The one rule.
    #[inline]
    pub(crate) fn is_met_by(&self, granted: Scopes<'_>) -> bool {
        match self {
            Self::AllOf(scopes) => scopes.iter().all(|scope| granted.contains_scope(scope)),
            Self::AnyOf(scopes) => scopes.iter().any(|scope| granted.contains_scope(scope)),
            // A resource server identifier may hold `/`, a scope name may not (AWS,
            // ResourceServerScopeType): the name is what follows the last one.
            Self::AnyOfResourceServer(server) => granted.iter().any(|scope| {
                scope
                    .rsplit_once('/')
                    .is_some_and(|(identifier, name)| identifier == &**server && !name.is_empty())
            }),
        }
    }

    /// The scopes to name in a challenge, if they can be named.
    pub(crate) fn scopes(&self) -> &[Scope] {
        match self {
            Self::AllOf(scopes) | Self::AnyOf(scopes) => scopes,
            Self::AnyOfResourceServer(_) => &[],
        }
    }
}

fn parse_all<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Box<[Scope]>, InvalidScope> {
    let scopes = scopes.into_iter().map(str::parse).collect::<Result<Box<[_]>, _>>()?;
    // With none, `all_of` would be met by every token.
    if scopes.is_empty() { Err(InvalidScope::new("no scope is named")) } else { Ok(scopes) }
}

fn check_scope_token(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains(' ') {
        return Err("it has a space, and each scope stands alone");
    }
    if !text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
        return Err("it has a quote, a backslash, a control or a non-ASCII character");
    }
    Ok(())
}
