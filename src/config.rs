//! The settings of a verifier, from the environment or from a file.
//!
//! ```no_run
//! use tower_cognito::{Config, RequireToken};
//!
//! # async fn example(app: axum::Router) -> Result<axum::Router, tower_cognito::StartError> {
//! let config = Config::from_env()?;
//! let verifier = config.verifier().connect().await?;
//! let app = app.layer(config.required_scopes()).layer(RequireToken::new(verifier));
//! # Ok(app)
//! # }
//! ```
//!
//! | variable | key in a file | value |
//! | --- | --- | --- |
//! | `COGNITO_USER_POOL_ID` | `user_pool_id` | as `ap-northeast-1_AbCdEfGhI`; this or the issuer |
//! | `COGNITO_ISSUER` | `issuer` | a URL, byte for byte what `iss` says, a slash at its end included: an emulator, a proxy |
//! | `COGNITO_JWKS_URL` | `jwks_url` | a URL, where the keys are not at the issuer's |
//! | `COGNITO_CLIENT_IDS` | `client_ids` | one or several, or the word `any`; never left out |
//! | `COGNITO_REQUIRED_SCOPES` | `required_scopes` | a token needs all of them, where [`Config::required_scopes`] is used |
//! | `COGNITO_AUDIENCE` | `audience` | what `aud` must contain |
//! | `COGNITO_GROUPS` | `groups` | a user must be in one of them |
//! | `COGNITO_LEEWAY_SECONDS` | `leeway_seconds` | 0 to 300 |
//! | `COGNITO_REFRESH_INTERVAL_SECONDS` | `refresh_interval_seconds` | 10 to 86400 |
//! | `COGNITO_MAX_KEY_AGE_SECONDS` | `max_key_age_seconds` | the refresh interval at least |
//! | `COGNITO_CONNECT_TIMEOUT_SECONDS` | `connect_timeout_seconds` | how long `connect` tries |
//! | `COGNITO_TOKEN_CACHE_BYTES` | `token_cache_bytes` | for tokens seen before; 0 is none |
//!
//! A list is separated by spaces in a variable, client IDs by commas too; in a file it is a list.
//! What is not set is as in the code. A setting that is not known is an error, since a misspelt
//! `COGNITO_REQUIRED_SCOPES` would ask for nothing; all problems are reported together, and no
//! value is ever repeated.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::StartError;
use crate::layer::RequireScope;
use crate::scope::Requirement;
use crate::user_pool::UserPool;
use crate::verifier::{
    CONNECT_TIMEOUT, INTERVALS, MAX_KEY_AGE, REFRESH_INTERVAL, TOKEN_CACHE_BYTES, VerifierBuilder,
};
use crate::verify::{ClientIds, MAX_LEEWAY, Rules};

/// The settings of a verifier, from the environment or from a file. See the
/// [module docs](crate::config) for their names.
///
/// It is deserialized by serde from whatever format has keys and values:
///
/// ```
/// use tower_cognito::Config;
///
/// let config: Config = serde_json::from_str(
///     r#"{
///         "user_pool_id": "ap-northeast-1_AbCdEfGhI",
///         "client_ids": ["5a1b2c3d4e5f6g7h8i9j0k1l2m"],
///         "required_scopes": ["activity/*"]
///     }"#,
/// )?;
///
/// let error = serde_json::from_str::<Config>(r#"{"user_pool": "AbCdEfGhI"}"#);
/// let error = error.unwrap_err().to_string();
/// assert!(error.contains("`user_pool`: there is no such setting"));
/// assert!(error.contains("`client_ids`: it is missing"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    rules: Rules,
    required_scopes: RequireScope,
    refresh_interval: Duration,
    max_key_age: Duration,
    connect_timeout: Duration,
    token_cache_bytes: usize,
}

impl Config {
    /// The variables of this process that begin with `COGNITO_`.
    ///
    /// # Errors
    ///
    /// When settings are missing, malformed or unknown; lists all that is wrong.
    pub fn from_env() -> Result<Self, StartError> {
        Self::from_vars(std::env::vars_os())
    }

    /// [`Config::from_env`] with variables from elsewhere; or with some left out, where another
    /// part of the program has variables that begin with `COGNITO_`.
    ///
    /// ```
    /// use tower_cognito::Config;
    ///
    /// # let of_this_process = || [
    /// #     ("COGNITO_USER_POOL_ID", "us-east-1_Example"),
    /// #     ("COGNITO_CLIENT_IDS", "any"),
    /// #     ("COGNITO_DOMAIN", "example.auth.us-east-1.amazoncognito.com"),
    /// # ].into_iter();
    /// let vars = of_this_process().filter(|(name, _)| *name != "COGNITO_DOMAIN");
    /// let config = Config::from_vars(vars)?;
    /// # Ok::<(), tower_cognito::StartError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Config::from_env`].
    pub fn from_vars(
        vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, StartError> {
        let mut settings = RawConfig::new(|key| format!("COGNITO_{}", key.to_ascii_uppercase()));
        for (name, value) in vars {
            let name = name.into();
            let name = name.to_string_lossy();
            let Some(key) = name.strip_prefix("COGNITO_") else {
                continue;
            };
            // `COGNITO_Issuer` is another variable.
            let key = if key.contains(|c: char| c.is_ascii_lowercase()) { "" } else { key };
            let value = value.into().into_string().map_or(Set::NotUnicode, Set::text);
            settings.add(&key.to_ascii_lowercase(), &name, value);
        }
        settings.config()
    }

    /// What a token must be like.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A verifier with these settings, to be started. It does not ask for the required scopes:
    /// that is the layer of [`required_scopes`](Self::required_scopes), or an interceptor with it.
    ///
    /// What only code can ask for, such as a [check](Rules::with_check), comes on top:
    ///
    /// ```
    /// # use tower_cognito::{Config, CheckError, StartError, Verifier};
    /// # async fn example(config: Config) -> Result<Verifier, StartError> {
    /// let rules = config.rules().clone().with_check(|token| match token.username() {
    ///     Some(_) => Ok(()),
    ///     None => Err(CheckError::Forbidden),
    /// });
    /// let verifier = config.verifier().connect().await?.with_rules(rules)?;
    /// # Ok(verifier)
    /// # }
    /// ```
    pub fn verifier(&self) -> VerifierBuilder {
        VerifierBuilder::new(self.rules.clone())
            .refresh_interval(self.refresh_interval)
            .max_key_age(self.max_key_age)
            .connect_timeout(self.connect_timeout)
            .token_cache_bytes(self.token_cache_bytes)
    }

    /// The layer that asks for the scopes; where none are set, a good token is enough for it.
    pub fn required_scopes(&self) -> RequireScope {
        self.required_scopes.clone()
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        macro_rules! refuse {
            ($($visit:ident: $type:ty),*) => {
                $(fn $visit<E: de::Error>(self, _: $type) -> Result<RawConfig, E> {
                    Err(E::custom(NO_TABLE))
                })*
            };
        }

        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings by their names")
            }

            // What serde would say repeats the value.
            refuse! { visit_bool: bool, visit_f64: f64, visit_i64: i64, visit_u64: u64, visit_str: &str }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawConfig, A::Error> {
                Err(A::Error::custom(NO_TABLE))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawConfig, A::Error> {
                let mut settings = RawConfig::new(str::to_owned);
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    settings.add(&key, &key, Set::Value(value));
                }
                Ok(settings)
            }
        }

        deserializer.deserialize_any(Entries)?.config().map_err(D::Error::custom)
    }
}

const KEYS: [&str; 12] = [
    "audience",
    "client_ids",
    "connect_timeout_seconds",
    "groups",
    "issuer",
    "jwks_url",
    "leeway_seconds",
    "max_key_age_seconds",
    "refresh_interval_seconds",
    "required_scopes",
    "token_cache_bytes",
    "user_pool_id",
];

/// What was set, and what is wrong with it.
struct RawConfig {
    values: BTreeMap<&'static str, Set>,
    problems: Vec<String>,
    name_of: fn(&str) -> String,
}

/// What a setting was set to.
enum Set {
    NotUnicode,
    Value(Value),
}

impl Set {
    fn text(text: String) -> Self {
        Self::Value(Value::String(text))
    }
}

/// What stands between the items of a list in a variable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Separator {
    CommaOrSpace,
    /// A group or a scope may have a comma in its name; in a file, such a one can be named.
    Space,
}

impl RawConfig {
    fn new(name_of: fn(&str) -> String) -> Self {
        Self { values: BTreeMap::new(), problems: Vec::new(), name_of }
    }

    fn add(&mut self, key: &str, name: &str, value: Set) {
        let Some(key) = KEYS.iter().find(|known| **known == key) else {
            let known = KEYS.map(self.name_of).join("`, `");
            let problem = format!("`{name}`: there is no such setting; there are `{known}`");
            return self.problems.push(problem);
        };
        if self.values.insert(key, value).is_some() {
            self.problem(key, "it is there twice");
        }
    }

    fn config(mut self) -> Result<Config, StartError> {
        let pool = self.pool();
        let clients = self.clients();
        let required_scopes = self.required_scopes();
        let audience = self.text("audience");
        let groups = self.list("groups", Separator::Space);
        let leeway = self.seconds("leeway_seconds", 0..=MAX_LEEWAY.as_secs());
        let (shortest, longest) = INTERVALS;
        let intervals = shortest.as_secs()..=longest.as_secs();
        let refresh_interval = self.seconds("refresh_interval_seconds", intervals);
        let is_unreadable =
            refresh_interval.is_none() && self.values.contains_key("refresh_interval_seconds");
        let refresh_interval = refresh_interval.unwrap_or(REFRESH_INTERVAL);
        let max_key_age = self.seconds("max_key_age_seconds", 0..=u64::MAX).unwrap_or(MAX_KEY_AGE);
        if max_key_age < refresh_interval && !is_unreadable {
            self.problem("max_key_age_seconds", "it is shorter than the refresh interval");
        }
        let connect_timeout = self.seconds("connect_timeout_seconds", 0..=u64::MAX);
        let cache_bytes = self.number("token_cache_bytes", 0..=u64::MAX);
        let cache_bytes = cache_bytes.map(|n| usize::try_from(n).unwrap_or(usize::MAX));

        let (Some(pool), Some(clients)) = (pool, clients) else {
            return Err(StartError::new(self.problems));
        };
        let mut rules = Rules::new(pool, clients).with_leeway(leeway.unwrap_or_default());
        if let Some(audience) = audience {
            rules = rules.with_audience(audience);
        }
        if let Some(groups) = groups {
            rules = rules.with_groups(groups);
        }
        let required_scopes =
            required_scopes.unwrap_or_else(|| RequireScope::of(Requirement::empty()));
        let config = Config {
            rules,
            required_scopes,
            refresh_interval,
            max_key_age,
            connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            token_cache_bytes: cache_bytes.unwrap_or(TOKEN_CACHE_BYTES),
        };
        if self.problems.is_empty() { Ok(config) } else { Err(StartError::new(self.problems)) }
    }

    fn pool(&mut self) -> Option<UserPool> {
        let pool = match (self.text("user_pool_id"), self.text("issuer")) {
            (Some(_), Some(_)) => {
                self.problem("issuer", "a user pool ID is set as well; leave one of them out");
                None
            }
            (Some(id), None) => self.checked("user_pool_id", UserPool::new(&id)),
            (None, Some(issuer)) => self.checked("issuer", UserPool::from_issuer(&issuer)),
            (None, None) => {
                let is_set = |key| self.values.contains_key(key);
                if !is_set("user_pool_id") && !is_set("issuer") {
                    let what = "it is missing; it looks like `ap-northeast-1_AbCdEfGhI`";
                    self.problem("user_pool_id", what);
                }
                None
            }
        };
        let Some(url) = self.text("jwks_url") else {
            return pool;
        };
        let Some(pool) = pool else {
            // All problems are to be found at once, so it is tried on another pool.
            let elsewhere = UserPool::from_issuer("https://issuer.example");
            self.checked("jwks_url", elsewhere.and_then(|pool| pool.jwks_url(&url)));
            return None;
        };
        self.checked("jwks_url", pool.jwks_url(&url))
    }

    fn clients(&mut self) -> Option<ClientIds> {
        if !self.values.contains_key("client_ids") {
            let what = "it is missing; name the app clients, or write `any`";
            self.problem("client_ids", what);
        }
        let ids = self.list("client_ids", Separator::CommaOrSpace)?;
        if ids == ["any"] {
            return Some(ClientIds::any());
        }
        // What Cognito's API admits, and a hyphen, which emulators write.
        let is_id = |id: &String| {
            !id.eq_ignore_ascii_case("any")
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
        };
        if !ids.iter().all(is_id) {
            let what = "it is no list of client IDs; one looks like `5a1b2c3d4e5f6g7h8i9j0k1l2m`";
            self.problem("client_ids", what);
        }
        Some(ClientIds::only(ids))
    }

    fn required_scopes(&mut self) -> Option<RequireScope> {
        let scopes = self.list("required_scopes", Separator::Space)?;
        let requirement = Requirement::all_of(scopes.iter().map(String::as_str));
        self.checked("required_scopes", requirement).map(RequireScope::of)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let text = match self.values.get(key)? {
            Set::NotUnicode => Err(NOT_UNICODE),
            Set::Value(Value::String(text)) => match text.trim() {
                "" => Err("it is empty; leave it out instead"),
                trimmed if trimmed != text => Err("it has white space around it"),
                _ => Ok(text.clone()),
            },
            Set::Value(_) => Err("it is not a text"),
        };
        self.checked(key, text)
    }

    fn list(&mut self, key: &str, separator: Separator) -> Option<Vec<String>> {
        let items = match self.values.get(key)? {
            Set::NotUnicode => Err(NOT_UNICODE),
            Set::Value(Value::String(text))
                if separator == Separator::Space && text.contains(',') =>
            {
                Err("it has a comma, and these are separated by spaces")
            }
            Set::Value(Value::String(text)) => Ok(split(text, separator)),
            Set::Value(Value::Array(items)) => {
                let items = items.iter().map(|item| item.as_str().map(str::to_owned));
                items.collect::<Option<Vec<_>>>().ok_or(NO_LIST)
            }
            Set::Value(_) => Err(NO_LIST),
        };
        let items = items.and_then(|items| {
            if items.is_empty() {
                Err("it is empty; leave it out instead")
            } else if items.iter().any(|item| item.trim().is_empty()) {
                Err("it names something empty")
            } else {
                Ok(items)
            }
        });
        self.checked(key, items)
    }

    fn seconds(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<Duration> {
        self.number(key, range).map(Duration::from_secs)
    }

    fn number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.values.get(key)? {
            Set::NotUnicode => return self.checked(key, Err(NOT_UNICODE)),
            Set::Value(Value::String(text)) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().ok()
            }
            Set::Value(value) => value.as_u64(),
        };
        let number = match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(number),
            None if *range.end() == u64::MAX => Err("it is not a whole number".to_owned()),
            None => {
                let (least, most) = range.into_inner();
                Err(format!("it is not a whole number from {least} to {most}"))
            }
        };
        self.checked(key, number)
    }

    fn checked<T>(&mut self, key: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(key, &problem.to_string());
                None
            }
        }
    }

    fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(format!("`{}`: {what}", (self.name_of)(key)));
    }
}

const NO_TABLE: &str = "expected settings by their names";
const NOT_UNICODE: &str = "it is not Unicode";
const NO_LIST: &str = "it is not a list of texts";

/// Two commas in a row are a mistake, two spaces are none.
fn split(text: &str, separator: Separator) -> Vec<String> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let pieces = match separator {
        Separator::CommaOrSpace => text.split(',').map(str::trim).collect(),
        Separator::Space => vec![text.trim()],
    };
    let items = pieces.into_iter().flat_map(|piece| match piece {
        "" => vec![""],
        _ => piece.split_whitespace().collect(),
    });
    items.map(str::to_owned).collect()
}
