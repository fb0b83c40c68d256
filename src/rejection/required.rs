//! The scopes that a challenge names.

use crate::scope::{Requirement, Scope};

/// The requirements of a request, as far as the rejecting layers know: the rules of the verifier, the row
/// of the scope table, and each `RequireScope`. All of them must be met.
#[derive(Clone, Debug, Default)]
pub(super) struct RequiredScopes {
    requirements: Vec<&'static Requirement>,
    /// The scopes of all requirements, if there is more than one.
    listed: Vec<Scope>,
}

impl RequiredScopes {
    pub(super) fn add(&mut self, requirement: &'static Requirement) {
        if self.requirements.contains(&requirement) {
            return;
        }
        self.requirements.push(requirement);
        if self.requirements.len() < 2 {
            return;
        }
        self.listed.clear();
        for scope in self.requirements.iter().flat_map(|requirement| requirement.scopes()) {
            if !self.listed.contains(scope) {
                self.listed.push(scope.clone());
            }
        }
    }

    /// Returns the scopes of all requirements, including every alternative.
    pub(super) fn all(&self) -> &[Scope] {
        match &*self.requirements {
            [] => &[],
            [requirement] => requirement.scopes(),
            [..] => &self.listed,
        }
    }

    /// Returns the scopes to name in a challenge. Clients request all of them, so of alternatives
    /// only the first is named, and none if another requirement already names one of them.
    pub(super) fn named(&self) -> Vec<&str> {
        let mut named = Vec::<&str>::new();
        for requirement in &self.requirements {
            if let Requirement::AllOf(scopes) = requirement {
                for scope in scopes.iter().map(Scope::as_str) {
                    if !named.contains(&scope) {
                        named.push(scope);
                    }
                }
            }
        }
        for requirement in &self.requirements {
            if let Requirement::AnyOf(scopes) = requirement
                && !scopes.iter().any(|scope| named.contains(&scope.as_str()))
            {
                named.extend(scopes.first().map(Scope::as_str));
            }
        }
        named
    }
}
