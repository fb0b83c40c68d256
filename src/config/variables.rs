//! Which environment variables are settings, which are misspelled settings, and which belong to
//! another program.
//!
//! Other programs use the prefix `COGNITO_` too, and Kubernetes sets variables for every Service
//! whose name begins with `cognito`. They must not stop the service. A misspelled setting must,
//! because a restriction that is set but not applied fails open.

use std::net::IpAddr;

use super::KEYS;

const PREFIX: &str = "COGNITO_";

/// Names that people write for a setting that restricts access, and that setting.
const SHORT_FORMS: [(&str, &str); 9] = [
    ("APP_CLIENT_ID", "client_ids"),
    ("AUD", "audience"),
    ("AUDIENCES", "audience"),
    ("CLIENTS", "client_ids"),
    ("CLIENT_ID", "client_ids"),
    ("GROUP", "groups"),
    ("REQUIRED_SCOPE", "required_scopes"),
    ("SCOPE", "required_scopes"),
    ("SCOPES", "required_scopes"),
];

/// The kind of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    /// It does not begin with `COGNITO_`, in whatever case.
    Other,
    /// The setting with this key.
    Setting(&'static str),
    /// `COGNITO_IGNORE`.
    Ignore,
    /// Its name differs from that of this setting only in case.
    WrongCase(&'static str),
    /// Kubernetes set it for a Service.
    Kubernetes,
    /// Its name resembles that of this setting.
    Resembles(&'static str),
    /// It has the prefix, and is not a setting.
    Foreign,
}

/// Returns the name of the variable for this key.
pub(super) fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

pub(super) fn classify(name: &str, value: &str) -> Variable {
    let has_prefix =
        name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    if !has_prefix {
        return Variable::Other;
    }
    let key = name.get(PREFIX.len()..).unwrap_or_default();
    if name == "COGNITO_IGNORE" {
        return Variable::Ignore;
    }
    if let Some(known) = KEYS.iter().find(|known| known.eq_ignore_ascii_case(key)) {
        let is_exact = name_of(known) == name;
        return if is_exact { Variable::Setting(known) } else { Variable::WrongCase(known) };
    }
    if is_of_kubernetes(name, value) {
        return Variable::Kubernetes;
    }
    let key = key.to_ascii_uppercase();
    let short = SHORT_FORMS.iter().find(|(short, _)| **short == *key).map(|(_, known)| *known);
    let near = || KEYS.into_iter().find(|known| is_near(&known.to_ascii_uppercase(), &key));
    short.or_else(near).map_or(Variable::Foreign, Variable::Resembles)
}

/// Returns `true` if the name and the value have a form that Kubernetes gives the variables of a
/// Service (its page "Accessing the Service", and Docker's legacy links).
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix("COGNITO") else {
        return false;
    };
    if rest.ends_with("_SERVICE_HOST") {
        return is_address(value);
    }
    if rest.ends_with("_SERVICE_PORT") {
        return is_port(value);
    }
    if let Some((_, port_name)) = rest.split_once("_SERVICE_PORT_")
        && !port_name.is_empty()
        && is_port(value)
    {
        return true;
    }
    if rest.ends_with("_PORT") && is_port_url(value) {
        return true;
    }
    // `_PORT_{n}_{TCP|UDP|SCTP}`, and its `_PROTO`, `_PORT` and `_ADDR`.
    let is_for = |suffix| rest.strip_suffix(suffix).is_some_and(ends_with_port_and_protocol);
    (is_for("") && is_port_url(value))
        || (is_for("_PROTO") && PROTOCOLS.contains(&value))
        || (is_for("_PORT") && is_port(value))
        || (is_for("_ADDR") && is_address(value))
}

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

fn ends_with_port_and_protocol(name: &str) -> bool {
    let Some((rest, protocol)) = name.rsplit_once('_') else {
        return false;
    };
    let is_protocol = PROTOCOLS.contains(&&*protocol.to_ascii_lowercase());
    let port = rest.rsplit_once("_PORT_").map(|(_, port)| port);
    is_protocol && port.is_some_and(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// `tcp://10.0.0.1:80`, or with an IPv6 address in brackets.
fn is_port_url(text: &str) -> bool {
    let Some((protocol, rest)) = text.split_once("://") else {
        return false;
    };
    let Some((host, port)) = rest.rsplit_once(':') else {
        return false;
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    PROTOCOLS.contains(&protocol) && is_address(host) && is_port(port)
}

/// Returns `true` if at most two letters have to be inserted, removed or replaced.
fn is_near(known: &str, name: &str) -> bool {
    const MOST: usize = 2;

    let name = name.chars().collect::<Vec<_>>();
    if known.chars().count().abs_diff(name.len()) > MOST {
        return false;
    }
    // The distance from the first letters of `known` to each beginning of `name`.
    let mut row = (0..=name.len()).collect::<Vec<_>>();
    for (index, letter) in known.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index.saturating_add(1);
        let mut next = vec![left];
        for (above, other) in row.iter().skip(1).zip(&name) {
            let replaced = diagonal.saturating_add(usize::from(letter != *other));
            let inserted_or_removed = left.min(*above).saturating_add(1);
            left = replaced.min(inserted_or_removed);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().is_some_and(|distance| *distance <= MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: Variable) {
        assert_eq!(classify(name, value), expected, "{name}={value}");
    }

    #[test]
    fn every_short_form_resembles_its_setting() {
        for (short, known) in SHORT_FORMS {
            check(&format!("COGNITO_{short}"), "x", Variable::Resembles(known));
            check(&format!("cognito_{}", short.to_lowercase()), "x", Variable::Resembles(known));
        }
    }

    #[test]
    fn two_letters_away_resembles_and_three_is_foreign() {
        check("COGNITO_GROUPZ", "x", Variable::Resembles("groups"));
        check("COGNITO_GROUPZZ", "x", Variable::Resembles("groups"));
        check("COGNITO_GROUPZZZ", "x", Variable::Foreign);
        check("COGNITO_GRUPS", "x", Variable::Resembles("groups"));
        check("COGNITO_GRPS", "x", Variable::Resembles("groups"));
        check("COGNITO_GRS", "x", Variable::Foreign);
        check("COGNITO_REQIURED_SCOPES", "x", Variable::Resembles("required_scopes"));
        check("COGNITO_JWKS_URI", "x", Variable::Resembles("jwks_url"));
        check("COGNITO_USERPOOL_ID", "x", Variable::Resembles("user_pool_id"));
        for foreign in
            ["DOMAIN", "REGION", "CLIENT_SECRET", "IDENTITY_POOL_ID", "USER_POOL_ARN", ""]
        {
            check(&format!("COGNITO_{foreign}"), "x", Variable::Foreign);
        }
        assert!(is_near("ABC", "ABC") && is_near("", "AB") && !is_near("", "ABC"));
    }

    #[test]
    fn another_case_is_not_the_setting() {
        check("COGNITO_GROUPS", "x", Variable::Setting("groups"));
        for name in ["cognito_groups", "Cognito_GROUPS", "COGNITO_Groups"] {
            check(name, "x", Variable::WrongCase("groups"));
        }
        check("COGNITO_IGNORE", "x", Variable::Ignore);
        check("MY_COGNITO_GROUPS", "x", Variable::Other);
        check("COGNITO", "x", Variable::Other);
        check("COGNITÖ_GROUPS", "x", Variable::Other);
    }

    #[test]
    fn kubernetes_forms_need_kubernetes_values() {
        for (name, value, wrong) in [
            ("COGNITO_SERVICE_HOST", "10.0.0.1", "admins"),
            ("COGNITO_LOCAL_SERVICE_HOST", "fd00::1", "cognito.local"),
            ("COGNITO_LOCAL_SERVICE_PORT", "9229", "http"),
            ("COGNITO_LOCAL_SERVICE_PORT_HTTP", "9229", "x"),
            ("COGNITO_LOCAL_SERVICE_PORT_HTTP_ADMIN", "80", "65536"),
            ("COGNITO_PORT", "tcp://10.0.0.1:9229", "9229"),
            ("COGNITO_LOCAL_PORT", "udp://[fd00::1]:53", "tcp://cognito:9229"),
            ("COGNITO_LOCAL_PORT_9229_TCP", "tcp://10.0.0.1:9229", "10.0.0.1:9229"),
            ("COGNITO_LOCAL_PORT_9229_TCP_PROTO", "tcp", "http"),
            ("COGNITO_LOCAL_PORT_9229_TCP_PORT", "9229", "-1"),
            ("COGNITO_LOCAL_PORT_9229_TCP_ADDR", "10.0.0.1", "localhost"),
            ("COGNITO_LOCAL_PORT_53_UDP", "udp://10.0.0.1:53", "udp:10.0.0.1:53"),
            ("COGNITO_LOCAL_PORT_9_SCTP_PROTO", "sctp", ""),
        ] {
            check(name, value, Variable::Kubernetes);
            assert_ne!(classify(name, wrong), Variable::Kubernetes, "{name}={wrong}");
        }
        check("COGNITO_LOCAL_PORT_TCP", "tcp://10.0.0.1:9229", Variable::Foreign);
        check("COGNITO_GROUPS", "10.0.0.1", Variable::Setting("groups"));
    }
}
