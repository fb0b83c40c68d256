//! The settings of a verifier, from the environment or from a file.

mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use self::variables::{Variable, classify, name_of};
use crate::error::ConfigError;
use crate::scope::Requirement;
use crate::user_pool::{UserPool, is_in_other_partition};
use crate::verifier::{
    CONNECT_TIMEOUT, INTERVALS, MAX_KEY_AGE, REFRESH_INTERVAL, SettingNames, TOKEN_CACHE_BYTES,
    VerifierBuilder,
};
use crate::verify::{ClientIds, MAX_LEEWAY, Rules};

/// Contains the settings of a verifier, from the environment or from a file.
///
/// ```no_run
/// use tower_cognito::{Config, RequireToken};
///
/// # async fn example(app: axum::Router) -> Result<axum::Router, tower_cognito::StartError> {
/// let config = Config::from_env()?;
/// let verifier = config.verifier_builder().connect().await?;
/// let app = app.layer(RequireToken::new(verifier));
/// # Ok(app)
/// # }
/// ```
///
/// | variable | key in a file | value |
/// | --- | --- | --- |
/// | `COGNITO_USER_POOL_ID` | `user_pool_id` | the ID of the pool, such as `ap-northeast-1_AbCdEfGhI`; either this or the issuer |
/// | `COGNITO_ISSUER` | `issuer` | a URL, byte for byte the `iss` of the tokens: for an emulator or a proxy |
/// | `COGNITO_JWKS_URL` | `jwks_url` | a URL, if the keys are not at the issuer |
/// | `COGNITO_JWKS_FILE` | `jwks_file` | a path, if the keys are in a file |
/// | `COGNITO_INSECURE_JWKS_HOST` | `insecure_jwks_host` | a host and port from which keys may be fetched over plain http, such as `cognito:9229`: for an emulator |
/// | `COGNITO_CLIENT_IDS` | `client_ids` | one or more app clients, or the word `any`; required |
/// | `COGNITO_REQUIRED_SCOPES` | `required_scopes` | every token needs all of these scopes |
/// | `COGNITO_AUDIENCE` | `audience` | `aud` must contain one of these |
/// | `COGNITO_AUDIENCE_IF_PRESENT` | `audience_if_present` | the same, but a token without `aud` is accepted; either this or the audience |
/// | `COGNITO_GROUPS` | `groups` | a user must be in one of these groups |
/// | `COGNITO_LEEWAY_SECONDS` | `leeway_seconds` | default 0; 0 to 300 |
/// | `COGNITO_REFRESH_INTERVAL_SECONDS` | `refresh_interval_seconds` | default 300; 10 to 86400 |
/// | `COGNITO_MAX_KEY_AGE_SECONDS` | `max_key_age_seconds` | default 86400; at least the refresh interval |
/// | `COGNITO_CONNECT_TIMEOUT_SECONDS` | `connect_timeout_seconds` | default 10 |
/// | `COGNITO_TOKEN_CACHE_BYTES` | `token_cache_bytes` | default 8388608; 0 turns the cache off |
/// | `COGNITO_IGNORE` | | variables of other programs, which are never read |
///
/// A list is separated by spaces in a variable, client IDs also by commas; in a file it is a list.
/// Settings that are not set keep the builder's defaults. All problems are reported together. No
/// error repeats a value.
///
/// Other programs use the prefix `COGNITO_` too:
///
/// * The variables that Kubernetes sets for a Service are ignored.
/// * A name that resembles a setting is an error if that setting is not set, because a misspelled
///   restriction would not be applied. Resembling means at most two letters away, or a short form
///   such as `COGNITO_SCOPE`. A name that differs from a setting only in case is always an error.
/// * All others are ignored. The verifier logs one warning with their names when it starts.
///
/// In a file, an unknown key is an error. A file can have any format that serde reads:
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
/// let error = serde_json::from_str::<Config>(r#"{"client_id": "AbCdEfGhI"}"#);
/// let error = error.unwrap_err().to_string();
/// assert!(error.contains("`client_id`: unknown setting, did you mean `client_ids`?"));
/// assert!(error.contains("`user_pool_id`: it is not set"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    rules: Rules,
    refresh_interval: Duration,
    max_key_age: Duration,
    connect_timeout: Duration,
    token_cache_bytes: usize,
    setting_names: SettingNames,
    /// The variables that belong to other programs.
    foreign: BTreeSet<String>,
}

impl Config {
    /// Reads the variables of this process that begin with `COGNITO_`.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is missing, malformed, or probably misspelled. It lists every
    /// problem.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_vars(std::env::vars_os())
    }

    /// Reads these variables instead of those of this process.
    ///
    /// ```
    /// use tower_cognito::Config;
    ///
    /// let vars = [("COGNITO_USER_POOL_ID", "us-east-1_Example"), ("COGNITO_CLIENT_IDS", "any")];
    /// let config = Config::from_vars(vars)?;
    /// # Ok::<(), tower_cognito::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if [`Config::from_env`] would return one.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = RawConfig::new(name_of, SettingNames::VARIABLES);
        let mut unknown = Vec::new();
        for (name, value) in vars {
            let name = name.into();
            let name = name.to_string_lossy();
            let value = value.into().into_string().map_or(Set::NotUnicode, Set::text);
            match classify(&name, value.as_text().unwrap_or_default()) {
                Variable::Other | Variable::Kubernetes => {}
                Variable::Setting(key) => settings.add(key, value),
                Variable::Ignore => settings.ignore(value),
                variable => unknown.push((name.into_owned(), variable)),
            }
        }
        for (name, variable) in unknown {
            settings.add_unknown(name, variable);
        }
        settings.config()
    }

    /// Returns the rules for tokens.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Creates a builder with these settings.
    ///
    /// Rules that only code can express, such as a [check](Rules::with_check), are added to the
    /// rules of the configuration:
    ///
    /// ```
    /// # use tower_cognito::{CheckError, Config, StartError, Verifier};
    /// # async fn example(config: Config) -> Result<Verifier, StartError> {
    /// let rules = config.rules().clone().with_check(|token| match token.username() {
    ///     Some(_) => Ok(()),
    ///     None => Err(CheckError::Forbidden),
    /// });
    /// let verifier = config.verifier_builder().connect().await?.share_keys(rules)?;
    /// # Ok(verifier)
    /// # }
    /// ```
    pub fn verifier_builder(&self) -> VerifierBuilder {
        VerifierBuilder::new(self.rules.clone())
            .refresh_interval(self.refresh_interval)
            .max_key_age(self.max_key_age)
            .connect_timeout(self.connect_timeout)
            .token_cache_bytes(self.token_cache_bytes)
            .configured_by(self.setting_names, self.foreign.iter().cloned().collect())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("rules", &self.rules)
            .field("refresh_interval", &self.refresh_interval)
            .field("max_key_age", &self.max_key_age)
            .field("connect_timeout", &self.connect_timeout)
            .field("token_cache_bytes", &self.token_cache_bytes)
            .field("foreign", &self.foreign)
            .finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        macro_rules! reject {
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
                f.write_str("a table of settings")
            }

            // The text of serde would repeat the value.
            reject! { visit_bool: bool, visit_f64: f64, visit_i64: i64, visit_u64: u64, visit_str: &str }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawConfig, A::Error> {
                Err(A::Error::custom(NO_TABLE))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawConfig, A::Error> {
                let mut settings = RawConfig::new(str::to_owned, SettingNames::KEYS);
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    settings.add_key(&key, Set::Value(value));
                }
                Ok(settings)
            }
        }

        deserializer.deserialize_any(Entries)?.config().map_err(D::Error::custom)
    }
}

const KEYS: [&str; 15] = [
    "audience",
    "audience_if_present",
    "client_ids",
    "connect_timeout_seconds",
    "groups",
    "insecure_jwks_host",
    "issuer",
    "jwks_file",
    "jwks_url",
    "leeway_seconds",
    "max_key_age_seconds",
    "refresh_interval_seconds",
    "required_scopes",
    "token_cache_bytes",
    "user_pool_id",
];

/// The settings as they were given, and what is wrong with them.
struct RawConfig {
    values: BTreeMap<&'static str, Set>,
    problems: Vec<String>,
    /// Returns the name under which the user knows a key.
    name_of: fn(&str) -> String,
    setting_names: SettingNames,
    ignored: BTreeSet<String>,
    foreign: BTreeSet<String>,
}

/// The value of a setting.
enum Set {
    NotUnicode,
    Value(Value),
}

impl Set {
    fn text(text: String) -> Self {
        Self::Value(Value::String(text))
    }

    fn as_text(&self) -> Option<&str> {
        match self {
            Self::NotUnicode => None,
            Self::Value(value) => value.as_str(),
        }
    }
}

/// The separators of the items of a list in a variable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Separator {
    CommaOrSpace,
    /// The name of a group or of a scope may contain a comma. Such a name can be set in a file.
    Space,
}

impl RawConfig {
    fn new(name_of: fn(&str) -> String, setting_names: SettingNames) -> Self {
        Self {
            values: BTreeMap::new(),
            problems: Vec::new(),
            name_of,
            setting_names,
            ignored: BTreeSet::new(),
            foreign: BTreeSet::new(),
        }
    }

    fn add(&mut self, key: &'static str, value: Set) {
        if self.values.insert(key, value).is_some() {
            self.problem(key, "it is set more than once");
        }
    }

    fn add_key(&mut self, key: &str, value: Set) {
        let known = KEYS.iter().find(|known| **known == key);
        match (known, classify(&name_of(key), "")) {
            (Some(known), _) => self.add(known, value),
            (
                None,
                Variable::Resembles(known) | Variable::WrongCase(known) | Variable::Setting(known),
            ) => {
                self.problems.push(format!("`{key}`: unknown setting, did you mean `{known}`?"));
            }
            (None, _) => self.problems.push(format!("`{key}`: unknown setting")),
        }
    }

    /// Adds the names in `COGNITO_IGNORE`.
    fn ignore(&mut self, value: Set) {
        const NAME: &str = "`COGNITO_IGNORE`";

        let Some(text) = value.as_text() else {
            return self.problems.push(format!("{NAME}: {NOT_UNICODE}"));
        };
        for name in split(text, Separator::CommaOrSpace) {
            match classify(&name, "") {
                Variable::Setting(_) | Variable::Ignore => {
                    self.problems.push(format!("{NAME}: it names a setting"));
                }
                Variable::Other => {
                    self.problems
                        .push(format!("{NAME}: it has a name without the prefix `COGNITO_`"));
                }
                _ => {
                    self.ignored.insert(name);
                }
            }
        }
    }

    /// Adds a variable that is not a setting, after all settings have been added.
    fn add_unknown(&mut self, name: String, variable: Variable) {
        if self.ignored.contains(&name) {
            return;
        }
        match variable {
            Variable::WrongCase(known) => {
                let known = (self.name_of)(known);
                self.problems.push(format!("`{name}`: it differs from `{known}` only in case"));
            }
            Variable::Resembles(known) if !self.values.contains_key(known) => {
                let known = (self.name_of)(known);
                self.problems.push(format!("`{name}`: unknown setting, did you mean `{known}`?"));
            }
            _ => {
                self.foreign.insert(name);
            }
        }
    }

    fn config(mut self) -> Result<Config, ConfigError> {
        let pool = self.pool();
        let clients = self.clients();
        let required_scopes = self.required_scopes();
        let audiences = self.audiences("audience");
        let audiences_if_present = self.audiences("audience_if_present");
        if audiences.is_some() && audiences_if_present.is_some() {
            let audience = (self.name_of)("audience");
            let what = format!("`{audience}` is set too, expected only one of them");
            self.problem("audience_if_present", &what);
        }
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
            return Err(ConfigError::new(self.problems));
        };
        let mut rules = Rules::new(pool, clients).with_leeway(leeway.unwrap_or_default());
        if let Some(audiences) = audiences {
            rules = rules.with_audiences(audiences);
        }
        if let Some(audiences) = audiences_if_present {
            rules = rules.with_audience_if_present(audiences);
        }
        if let Some(groups) = groups {
            rules = rules.with_groups(groups);
        }
        if let Some(required) = required_scopes {
            rules = rules.with_requirement(required);
        }
        let config = Config {
            rules,
            refresh_interval,
            max_key_age,
            connect_timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            token_cache_bytes: cache_bytes.unwrap_or(TOKEN_CACHE_BYTES),
            setting_names: self.setting_names,
            foreign: self.foreign,
        };
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError::new(self.problems)) }
    }

    fn pool(&mut self) -> Option<UserPool> {
        let pool = match (self.text("user_pool_id"), self.text("issuer")) {
            (Some(_), Some(_)) => {
                let id = (self.name_of)("user_pool_id");
                self.problem("issuer", &format!("`{id}` is set too, expected only one of them"));
                None
            }
            (Some(id), None) => self.pool_of_id(&id),
            (None, Some(issuer)) => self.checked("issuer", UserPool::from_issuer(&issuer)),
            (None, None) => {
                let is_set = |key| self.values.contains_key(key);
                let issuer = (self.name_of)("issuer");
                if is_set("user_pool_id") || is_set("issuer") {
                    // The problem of that setting is reported already.
                } else if is_set("jwks_url") || is_set("jwks_file") {
                    self.problem(
                        "issuer",
                        "it is not set, expected the `iss` of the tokens, which the place of the \
                         keys does not tell",
                    );
                } else {
                    self.problem(
                        "user_pool_id",
                        &format!(
                            "it is not set, expected an ID such as `ap-northeast-1_AbCdEfGhI`, or \
                             `{issuer}`"
                        ),
                    );
                }
                None
            }
        };
        // All problems are to be found at once, so the others are tried on any pool.
        let elsewhere = || UserPool::from_issuer("https://issuer.example").ok();
        let mut is_valid = pool.is_some();
        let mut pool = pool.or_else(elsewhere)?;
        if let Some(url) = self.text("jwks_url") {
            match self.checked("jwks_url", pool.clone().with_jwks_url(&url)) {
                Some(with_url) => pool = with_url,
                None => is_valid = false,
            }
        }
        if let Some(path) = self.text("jwks_file") {
            if self.values.contains_key("jwks_url") {
                let url = (self.name_of)("jwks_url");
                self.problem(
                    "jwks_file",
                    &format!("`{url}` is set too, expected only one of them"),
                );
            }
            pool = pool.with_jwks_file(path);
        }
        if let Some(host) = self.text("insecure_jwks_host") {
            let host = pool.clone().with_insecure_jwks_host(&host);
            match self.checked("insecure_jwks_host", host) {
                Some(with_host) => pool = with_host,
                None => is_valid = false,
            }
        }
        is_valid.then_some(pool)
    }

    /// Creates the pool, or says which setting takes what is there instead of an ID.
    fn pool_of_id(&mut self, id: &str) -> Option<UserPool> {
        let issuer = (self.name_of)("issuer");
        let problem = match UserPool::new(id) {
            Ok(pool) => return Some(pool),
            Err(_) if id.contains("://") => {
                format!("it is a URL, expected an ID, or `{issuer}` for a URL")
            }
            Err(_) if id.starts_with("local_") => format!(
                "it is the ID of an emulator's pool, expected `{issuer}` with the issuer of the emulator"
            ),
            Err(_) if is_in_other_partition(id) => {
                format!("the issuers of this partition are not known, expected `{issuer}` instead")
            }
            Err(error) => error.to_string(),
        };
        self.problem("user_pool_id", &problem);
        None
    }

    fn clients(&mut self) -> Option<ClientIds> {
        if !self.values.contains_key("client_ids") {
            let what = "it is not set, expected the IDs of app clients, or `any`";
            self.problem("client_ids", what);
        }
        let ids = self.list("client_ids", Separator::CommaOrSpace)?;
        if ids == ["any"] {
            return Some(ClientIds::any());
        }
        // Cognito's API allows these characters, and emulators also use a hyphen.
        let is_id = |id: &String| {
            !id.eq_ignore_ascii_case("any")
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
        };
        if !ids.iter().all(is_id) {
            let what = "it is not a list of client IDs such as `5a1b2c3d4e5f6g7h8i9j0k1l2m`, or only `any`";
            self.problem("client_ids", what);
        }
        Some(ClientIds::only(ids))
    }

    fn audiences(&mut self, key: &'static str) -> Option<Vec<String>> {
        let audiences = self.list(key, Separator::Space)?;
        for audience in &audiences {
            if audience.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
                self.problem(key, "an item has white space or a quotation mark");
            } else if audience.contains(':') && !is_absolute_uri(audience) {
                self.problem(key, "an item has a `:`, but is not an absolute URI");
            }
        }
        Some(audiences)
    }

    fn required_scopes(&mut self) -> Option<Requirement> {
        let scopes = self.list("required_scopes", Separator::Space)?;
        let requirement = Requirement::all_of(scopes.iter().map(String::as_str));
        self.checked("required_scopes", requirement)
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let text = match self.values.get(key)? {
            Set::NotUnicode => Err(NOT_UNICODE),
            Set::Value(Value::String(text)) => match text.trim() {
                "" => Err("it is empty, expected a value or no such setting"),
                trimmed if trimmed != text => Err("it has white space around it"),
                _ => Ok(text.clone()),
            },
            Set::Value(_) => Err("it is not a string"),
        };
        self.checked(key, text)
    }

    fn list(&mut self, key: &str, separator: Separator) -> Option<Vec<String>> {
        let items = match self.values.get(key)? {
            Set::NotUnicode => Err(NOT_UNICODE),
            Set::Value(Value::String(text))
                if separator == Separator::Space && text.contains(',') =>
            {
                Err("it has a comma, expected spaces between the items")
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
                Err("it is empty, expected a value or no such setting")
            } else if items.iter().any(|item| item.trim().is_empty()) {
                Err("it has an empty item")
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
            None if *range.end() == u64::MAX => Err("it is not an integer of 0 or more".to_owned()),
            None => {
                let (least, most) = range.into_inner();
                Err(format!("it is not an integer from {least} to {most}"))
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

const NO_TABLE: &str = "expected a table of settings";
const NOT_UNICODE: &str = "it is not Unicode";
const NO_LIST: &str = "it is not a list of strings";

/// RFC 3986 section 4.3: a scheme, a colon, and a hierarchical part or a path.
fn is_absolute_uri(text: &str) -> bool {
    let is_in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_in_uri = |byte: u8| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte);
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(is_in_scheme)
            && !rest.is_empty()
            && rest.bytes().all(is_in_uri)
    })
}

/// Two commas in a row are an error. Two spaces in a row are not.
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
