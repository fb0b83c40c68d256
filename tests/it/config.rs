//! The settings from the environment and from files: what each does, and what is said about
//! those that are wrong.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_cognito::test_issuer::Fault;
use tower_cognito::{Config, Health, RequireToken, Scope, VerifyErrorKind};

use super::fake_issuer::{Fake, Reply, keys, old_set, s};
use super::support::{CLIENT, Log, Plain, issuer, machine, request};

const POOL: &str = "us-east-1_TestIssuer";

/// Each key, a good value as a variable has it, and as JSON has it.
const GOOD: [(&str, &str, &str); 10] = [
    ("audience", "https://api.example", r#""https://api.example""#),
    ("client_ids", "one two", r#"["one","two"]"#),
    ("connect_timeout_seconds", "3", "3"),
    ("groups", "readers writers", r#"["readers","writers"]"#),
    ("issuer", "https://issuer.example/pool", r#""https://issuer.example/pool""#),
    ("jwks_url", "https://keys.example/jwks.json", r#""https://keys.example/jwks.json""#),
    ("leeway_seconds", "30", "30"),
    ("max_key_age_seconds", "7200", "7200"),
    ("refresh_interval_seconds", "60", "60"),
    ("required_scopes", "a/b c/d", r#"["a/b","c/d"]"#),
];

fn variable(key: &str) -> String {
    format!("COGNITO_{}", key.to_ascii_uppercase())
}

/// Variables by their names.
fn from_names(
    vars: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
) -> Result<Config, Vec<String>> {
    Config::from_vars(vars).map_err(|error| error.problems().map(str::to_owned).collect())
}

/// Variables by their keys.
fn from_vars(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    from_names(settings.iter().map(|(key, value)| (variable(key), *value)))
}

/// The usual variables and these.
fn and(more: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let usual = [("COGNITO_USER_POOL_ID", POOL), ("COGNITO_CLIENT_IDS", CLIENT)];
    from_names(usual.iter().chain(more).copied())
}

/// The usual settings and these, which take their place.
fn with(settings: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let is_set = |key: &str| settings.iter().any(|(other, _)| *other == key);
    let usual = [("user_pool_id", POOL), ("client_ids", CLIENT)];
    let usual = usual.into_iter().filter(|(key, _)| !is_set(key));
    let all = usual.chain(settings.iter().copied()).collect::<Vec<_>>();
    from_vars(&all)
}

/// Members by their keys; the values are JSON.
fn object<'a>(members: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let members = members.into_iter().map(|(key, json)| format!("{key:?}:{json}"));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn from_json(text: &str) -> Result<Config, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn from_toml(text: &str) -> Result<Config, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())
}

/// Checks that this variable, next to the usual ones, has this problem.
#[track_caller]
fn problem(key: &str, value: &str, expected: &str) {
    let expected = format!("`{}`: {expected}", variable(key));
    assert_eq!(with(&[(key, value)]).unwrap_err(), [expected], "{key}={value:?}");
}

/// And this one in a file, where the value is JSON.
#[track_caller]
fn problem_in_file(key: &str, json: &str, expected: &str) {
    let usual = [("user_pool_id", format!("{POOL:?}")), ("client_ids", format!("{CLIENT:?}"))];
    let usual = usual.into_iter().filter(|(other, _)| *other != key);
    let error = from_json(&object(usual.chain([(key, json.to_owned())]))).unwrap_err();
    assert_eq!(error, format!("invalid configuration: `{key}`: {expected}"), "{key} = {json}");
}

fn debug(config: &Config) -> String {
    format!("{config:?}")
}

#[test]
fn variables_json_and_toml_give_the_same_settings() {
    let vars = GOOD.map(|(key, value, _)| (key, value));
    let vars = from_vars(&vars).unwrap();
    let json = from_json(&object(GOOD.map(|(key, _, json)| (key, json.to_owned())))).unwrap();
    let lines = GOOD.map(|(key, _, json)| format!("{key} = {json}"));
    let toml = from_toml(&lines.join("\n")).unwrap();
    assert_eq!(debug(&vars), debug(&json));
    assert_eq!(debug(&vars), debug(&toml));
    for value in ["https://api.example", "one", "two", "readers", "issuer.example", "30s", "7200s"]
    {
        assert!(debug(&vars).contains(value), "{value} in {vars:?}");
    }
    // A text in a file is read as a variable is.
    let texts = object(GOOD.map(|(key, value, _)| (key, format!("{value:?}"))));
    let texts = from_json(&texts).unwrap();
    assert_eq!(debug(&vars), debug(&texts));
}

#[test]
fn settings_that_are_not_set_have_the_defaults_of_the_code() {
    let config = with(&[]).unwrap();
    let pool = tower_cognito::UserPool::new(POOL).unwrap();
    let rules = tower_cognito::Rules::new(pool, tower_cognito::ClientIds::only([CLIENT]));
    assert_eq!(format!("{:?}", config.rules()), format!("{rules:?}"));
    let plain = tower_cognito::Verifier::builder(rules);
    assert_eq!(format!("{:?}", config.verifier_builder()), format!("{plain:?}"));
}

/// The variables of a usual project that uses Cognito, next to ours.
#[test]
fn variables_of_a_usual_project_do_not_stop_the_service() {
    let config = and(&[
        ("COGNITO_DOMAIN", "example.auth.us-east-1.amazoncognito.com"),
        ("COGNITO_REGION", "us-east-1"),
        ("COGNITO_CLIENT_ID", "another"),
        ("COGNITO_CLIENT_SECRET", "secret"),
        ("COGNITO_IDENTITY_POOL_ID", "us-east-1:0"),
        ("COGNITO_USER_POOL_ARN", "arn:aws:cognito-idp:us-east-1:1:userpool/us-east-1_x"),
        ("PATH", "/bin"),
        ("COGNITO", "x"),
        ("AWS_COGNITO_ISSUER", "x"),
    ]);
    let config = config.unwrap();
    assert_eq!(format!("{:?}", config.rules()), format!("{:?}", with(&[]).unwrap().rules()));
    // One warning names them when the verifier starts.
    let log = Log::of_this_thread();
    drop(config.verifier_builder().jwks_fetcher(Fault::Down).connect_lazy().unwrap());
    let log = log.take();
    let lines = log.lines().filter(|line| line.contains("COGNITO_")).collect::<Vec<_>>();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains("WARN"), "{line}");
    for name in
        ["DOMAIN", "REGION", "CLIENT_ID", "CLIENT_SECRET", "IDENTITY_POOL_ID", "USER_POOL_ARN"]
    {
        assert!(line.contains(&format!("COGNITO_{name}")), "{name}: {line}");
    }
    assert!(!line.contains("secret") && !line.contains("arn:"), "{line}");
}

#[test]
fn variables_of_kubernetes_services_are_ignored_silently() {
    // The Services `cognito` and `cognito-local` of this namespace; the other forms are in a unit test.
    let names = ["COGNITO_SERVICE_HOST", "COGNITO_LOCAL_PORT_9229_TCP_ADDR"];
    let config = and(&names.map(|name| (name, "10.96.0.11"))).unwrap();
    assert_eq!(debug(&config), debug(&with(&[]).unwrap()), "no name is left for the warning");
    // The same names with other values are foreign, and still do not stop the service.
    let config = and(&names.map(|name| (name, "x"))).unwrap();
    assert!(debug(&config).contains("COGNITO_LOCAL_PORT_9229_TCP_ADDR"));
}

#[test]
fn name_that_resembles_a_setting_is_an_error_unless_that_setting_is_set() {
    for (name, known) in [
        ("COGNITO_REQUIRED_SCOPE", "COGNITO_REQUIRED_SCOPES"),
        ("COGNITO_SCOPE", "COGNITO_REQUIRED_SCOPES"),
        ("COGNITO_SCOPES", "COGNITO_REQUIRED_SCOPES"),
        ("COGNITO_AUD", "COGNITO_AUDIENCE"),
        ("COGNITO_AUDIENCES", "COGNITO_AUDIENCE"),
        ("COGNITO_GROUP", "COGNITO_GROUPS"),
        ("COGNITO_GRUOPS", "COGNITO_GROUPS"),
        ("COGNITO_ISSUER_", "COGNITO_ISSUER"),
        ("COGNITO__ISSUER", "COGNITO_ISSUER"),
        ("COGNITO_ISSUER ", "COGNITO_ISSUER"),
        ("COGNITO_JWKS_URI", "COGNITO_JWKS_URL"),
        ("COGNITO_LEEWAY_SECOND", "COGNITO_LEEWAY_SECONDS"),
    ] {
        let expected = format!("`{name}`: unknown setting, did you mean `{known}`?");
        assert_eq!(and(&[(name, "x")]).unwrap_err(), [expected]);
    }
    for name in
        ["COGNITO_CLIENT_ID", "COGNITO_APP_CLIENT_ID", "COGNITO_CLIENTS", "COGNITO_CLIENTS_ID"]
    {
        let problems = from_names([("COGNITO_USER_POOL_ID", POOL), (name, CLIENT)]).unwrap_err();
        let expected = format!("`{name}`: unknown setting, did you mean `COGNITO_CLIENT_IDS`?");
        assert!(problems.contains(&expected), "{problems:?}");
        assert!(and(&[(name, "x")]).is_ok(), "{name} is foreign if the setting is set");
    }
}

#[test]
fn name_in_another_case_is_an_error_on_every_platform() {
    for name in ["cognito_groups", "Cognito_GROUPS", "COGNITO_Groups", "COGNITO_groups"] {
        for ours in [&[][..], &[("COGNITO_GROUPS", "admins")]] {
            let expected = format!("`{name}`: it differs from `COGNITO_GROUPS` only in case");
            assert_eq!(and(&[&[(name, "admins")], ours].concat()).unwrap_err(), [expected]);
        }
    }
}

#[test]
fn ignored_variables_are_never_read() {
    let with_ignore = |ignore| {
        and(&[("COGNITO_SCOPE", "x"), ("COGNITO_REGION", "x"), ("COGNITO_IGNORE", ignore)])
    };
    for ignore in ["COGNITO_SCOPE COGNITO_REGION", "COGNITO_REGION,COGNITO_SCOPE"] {
        let config = with_ignore(ignore).unwrap();
        assert_eq!(debug(&config), debug(&with(&[]).unwrap()), "{ignore}");
    }
    assert_eq!(with_ignore("COGNITO_REGION").unwrap_err().len(), 1);
    for (ignore, problem) in [
        ("COGNITO_SCOPE COGNITO_GROUPS", "it names a setting"),
        ("COGNITO_SCOPE REGION", "it has a name without the prefix `COGNITO_`"),
    ] {
        let expected = format!("`COGNITO_IGNORE`: {problem}");
        assert_eq!(with_ignore(ignore).unwrap_err(), [expected]);
    }
}

#[test]
fn unknown_key_of_a_file_is_an_error() {
    for (key, hint) in [
        ("user_pool", ""),
        ("userpool_id", ", did you mean `user_pool_id`?"),
        ("Issuer", ", did you mean `issuer`?"),
        ("ISSUER", ", did you mean `issuer`?"),
        ("required-scopes", ", did you mean `required_scopes`?"),
        ("scope", ", did you mean `required_scopes`?"),
        ("COGNITO_ISSUER", ""),
        ("", ""),
    ] {
        let text = format!(r#"{{"user_pool_id":"{POOL}","client_ids":"any",{key:?}:1}}"#);
        let error = from_json(&text).unwrap_err();
        let expected = format!("invalid configuration: `{key}`: unknown setting{hint}");
        assert_eq!(error, expected);
    }
}

#[test]
fn error_without_settings_names_each_required_setting() {
    let pool = |issuer: &str| {
        format!("it is not set, expected an ID such as `ap-northeast-1_AbCdEfGhI`, or `{issuer}`")
    };
    let clients = "it is not set, expected the IDs of app clients, or `any`";
    let missing_pool = format!("`COGNITO_USER_POOL_ID`: {}", pool("COGNITO_ISSUER"));
    assert_eq!(
        from_vars(&[]).unwrap_err(),
        [missing_pool.clone(), format!("`COGNITO_CLIENT_IDS`: {clients}")]
    );
    let expected = format!(
        "invalid configuration: `user_pool_id`: {}; `client_ids`: {clients}",
        pool("issuer")
    );
    assert!(from_json("{}").unwrap_err().starts_with(&expected));
    assert!(from_toml("").unwrap_err().contains(&expected));
    let missing = [format!("`COGNITO_CLIENT_IDS`: {clients}")];
    assert_eq!(from_vars(&[("user_pool_id", POOL)]).unwrap_err(), missing);
    assert_eq!(from_vars(&[("client_ids", "any")]).unwrap_err(), [missing_pool]);
    // The place of the keys does not tell the issuer.
    let keys = [("client_ids", "any"), ("jwks_url", "https://keys.example/jwks.json")];
    let expected = "`COGNITO_ISSUER`: it is not set, expected the `iss` of the tokens, which the \
                    place of the keys does not tell";
    assert_eq!(from_vars(&keys).unwrap_err(), [expected]);
}

/// What people set instead of an ID: each error names variables, not functions.
#[test]
fn pool_in_another_form_is_an_error_that_names_the_variable_to_set() {
    let error = |value: &str| {
        let [problem] = &with(&[("user_pool_id", value)]).unwrap_err()[..] else {
            panic!("{value}")
        };
        problem.strip_prefix("`COGNITO_USER_POOL_ID`: ").unwrap().to_owned()
    };
    let id = "invalid user pool ID: ";
    let url = "it is a URL, expected an ID, or `COGNITO_ISSUER` for a URL";
    assert_eq!(error("https://cognito-idp.us-east-1.amazonaws.com/us-east-1_x"), url);
    let emulator = "it is the ID of an emulator's pool, expected `COGNITO_ISSUER` with the issuer of \
                    the emulator";
    assert_eq!(error("local_1a2b3c"), emulator);
    for region in
        ["cn-north-1", "eusc-de-east-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1"]
    {
        let partition =
            "the issuers of this partition are not known, expected `COGNITO_ISSUER` instead";
        assert_eq!(error(&format!("{region}_AbCdEfGhI")), partition);
    }
    let arn = error("arn:aws:cognito-idp:us-east-1:123456789012:userpool/us-east-1_AbCdEfGhI");
    assert!(arn.starts_with(&format!("{id}it is an ARN, whose last part is the ID")), "{arn}");
    let endpoint = error("cognito-idp.us-east-1.amazonaws.com/us-east-1_AbCdEfGhI");
    let expected = format!("{id}it is an endpoint, whose last part is the ID");
    assert!(endpoint.starts_with(&expected), "{endpoint}");
    assert!(with(&[("user_pool_id", "us-gov-west-1_AbCdEfGhI")]).is_ok());
}

/// An issuer is only compared, so it may have the scheme http; where keys are fetched from matters.
#[test]
fn plain_http_is_for_loopback_and_for_the_host_that_is_set() {
    const EMULATOR: &str = "http://cognito:9229/local_1a2b3c";
    let start = |settings: &[(&str, &str)]| {
        let usual = [("issuer", EMULATOR), ("client_ids", "any")];
        let settings = usual.iter().chain(settings).copied().collect::<Vec<_>>();
        let builder = from_vars(&settings).unwrap().verifier_builder();
        builder
            .connect_lazy()
            .map(drop)
            .map_err(|error| error.problems().next().unwrap().to_owned())
    };
    assert_eq!(start(&[("jwks_url", "http://127.0.0.1:9229/jwks.json")]), Ok(()));
    assert_eq!(start(&[("jwks_url", "https://cognito:9229/jwks.json")]), Ok(()));
    assert_eq!(start(&[("jwks_file", "/run/jwks.json")]), Ok(()));
    assert_eq!(start(&[("insecure_jwks_host", "cognito:9229")]), Ok(()));
    assert_eq!(
        start(&[]).unwrap_err(),
        format!(
            "{EMULATOR}: keys would be fetched over plain http from `cognito:9229`, which is not \
             loopback, and neither `COGNITO_JWKS_URL`, `COGNITO_JWKS_FILE` nor \
             `COGNITO_INSECURE_JWKS_HOST` is set"
        )
    );
    for host in ["cognito", "cognito:9230", "other:9229"] {
        assert_eq!(
            start(&[("insecure_jwks_host", host)]).unwrap_err(),
            format!(
                "{EMULATOR}: keys would be fetched over plain http from `cognito:9229`, but \
                 `COGNITO_INSECURE_JWKS_HOST` is `{host}`"
            )
        );
    }
    assert_eq!(
        start(&[("insecure_jwks_host", "cognito:9229"), ("jwks_url", "https://a.example/k")]),
        Err(format!(
            "{EMULATOR}: `COGNITO_INSECURE_JWKS_HOST` is `cognito:9229`, but no keys are fetched over \
             plain http from it"
        ))
    );
    // Another fetcher and fixed keys need no setting.
    let config = from_vars(&[("issuer", EMULATOR), ("client_ids", "any")]).unwrap();
    assert!(config.verifier_builder().jwks_fetcher(Fault::Down).connect_lazy().is_ok());
    assert!(config.verifier_builder().build_with_jwks(keys().issuer.jwks()).is_ok());
    // In a file, the errors name its keys.
    let error = from_json(&format!(r#"{{"issuer":{EMULATOR:?},"client_ids":"any"}}"#)).unwrap();
    let error = error.verifier_builder().connect_lazy().unwrap_err();
    assert!(error.to_string().contains("`insecure_jwks_host`"), "{error}");
}

#[test]
fn audience_is_a_name_or_an_absolute_uri() {
    for good in ["api", "https://api.example", "urn:example:api", "a/b", "https://a.example b"] {
        assert!(with(&[("audience", good)]).is_ok(), "{good}");
    }
    for bad in ["api:", ":api", "1a:b", "a b:", "a:b c:", "https://a<b", "https://caf\u{e9}"] {
        let expected = "`COGNITO_AUDIENCE`: an item has a `:`, but is not an absolute URI";
        assert_eq!(with(&[("audience", bad)]).unwrap_err(), [expected], "{bad}");
    }
    for bad in ["\"api\"", "'api'"] {
        let expected = "`COGNITO_AUDIENCE`: an item has white space or a quotation mark";
        assert_eq!(with(&[("audience", bad)]).unwrap_err(), [expected], "{bad}");
    }
    let text = format!(r#"{{"user_pool_id":"{POOL}","client_ids":"any","audience":["a b"]}}"#);
    assert!(from_json(&text).unwrap_err().contains("white space or a quotation mark"));
}

#[test]
fn each_problem_names_the_variable_and_what_is_expected() {
    const EMPTY: &str = "it is empty, expected a value or no such setting";
    const CLIENTS: &str =
        "it is not a list of client IDs such as `5a1b2c3d4e5f6g7h8i9j0k1l2m`, or only `any`";
    const URL: &str = "; expected a URL such as `https://issuer.example/pool`";
    for (key, value, expected) in [
        ("user_pool_id", "", EMPTY),
        ("user_pool_id", " \t", EMPTY),
        ("jwks_file", " keys.json", "it has white space around it"),
        ("jwks_file", "keys.json\n", "it has white space around it"),
        ("audience", "", EMPTY),
        ("jwks_url", "", EMPTY),
        ("groups", "", EMPTY),
        ("groups", "  ", EMPTY),
        ("required_scopes", "", EMPTY),
        ("required_scopes", " \n ", EMPTY),
        ("client_ids", "", EMPTY),
        ("client_ids", " , ,", "it has an empty item"),
        ("client_ids", "abc,,def", "it has an empty item"),
        ("client_ids", "abc,", "it has an empty item"),
        ("client_ids", "ANY", CLIENTS),
        ("leeway_seconds", "+5", "it is not an integer from 0 to 300"),
        ("client_ids", "any,abc", CLIENTS),
        ("client_ids", "abc any", CLIENTS),
        ("client_ids", "any any", CLIENTS),
        ("client_ids", "a;b", CLIENTS),
        ("client_ids", "a/b", CLIENTS),
        ("client_ids", "caf\u{e9}", CLIENTS),
        ("client_ids", "\"abc\"", CLIENTS),
        ("required_scopes", "a/b,c/d", "it has a comma, expected spaces between the items"),
        ("required_scopes", ",", "it has a comma, expected spaces between the items"),
        (
            "required_scopes",
            "a/b \"",
            "invalid scope: it contains a quote, a backslash, a control character or a \
             non-ASCII character; expected a scope such as `activity/*`",
        ),
        ("leeway_seconds", "301", "it is not an integer from 0 to 300"),
        ("leeway_seconds", "-1", "it is not an integer from 0 to 300"),
        ("leeway_seconds", "1.5", "it is not an integer from 0 to 300"),
        ("leeway_seconds", "", "it is not an integer from 0 to 300"),
        ("leeway_seconds", " 1", "it is not an integer from 0 to 300"),
        ("leeway_seconds", "5s", "it is not an integer from 0 to 300"),
        ("leeway_seconds", "99999999999999999999", "it is not an integer from 0 to 300"),
        ("refresh_interval_seconds", "9", "it is not an integer from 10 to 86400"),
        ("refresh_interval_seconds", "0", "it is not an integer from 10 to 86400"),
        ("refresh_interval_seconds", "86401", "it is not an integer from 10 to 86400"),
        ("max_key_age_seconds", "a day", "it is not an integer of 0 or more"),
        ("max_key_age_seconds", "-1", "it is not an integer of 0 or more"),
        ("connect_timeout_seconds", "1e3", "it is not an integer of 0 or more"),
        ("connect_timeout_seconds", "18446744073709551616", "it is not an integer of 0 or more"),
        ("max_key_age_seconds", "299", "it is shorter than the refresh interval"),
        ("max_key_age_seconds", "0", "it is shorter than the refresh interval"),
    ] {
        problem(key, value, expected);
    }
    for (key, value, expected) in [
        (
            "user_pool_id",
            "us-east-1",
            "invalid user pool ID: it has no `_` between region and name; expected an ID such as \
             `ap-northeast-1_AbCdEfGhI`",
        ),
        ("jwks_url", "ftp://a", &format!("invalid URL: it does not begin with `https://`{URL}")),
    ] {
        problem(key, value, expected);
    }
    let issuer = |value| from_vars(&[("issuer", value), ("client_ids", "any")]).unwrap_err();
    let expected = format!("`COGNITO_ISSUER`: invalid URL: an issuer has no query{URL}");
    assert_eq!(issuer("https://a/?b"), [expected]);
    assert_eq!(issuer(""), [format!("`COGNITO_ISSUER`: {EMPTY}")]);
}

#[test]
fn value_of_another_type_in_a_file_is_an_error() {
    let number = |range| format!("it is not an integer{range}");
    let (text, list) = ("it is not a string".to_owned(), "it is not a list of strings".to_owned());
    for (keys, values, expected) in [
        (
            &["user_pool_id", "jwks_url"][..],
            &["1", "true", "null", "[]", "{}", r#"["x"]"#, "1.5"][..],
            text,
        ),
        (
            &["audience", "client_ids", "groups", "required_scopes"],
            &["1", "true", "null", "{}", r#"["x",1]"#, "[null]", r#"[["x"]]"#],
            list,
        ),
        (
            &["leeway_seconds"],
            &["-1", "1.5", "5.0", "true", "null", "[1]", "301", "1e2", "99999999999999999999"],
            number(" from 0 to 300"),
        ),
        (
            &["refresh_interval_seconds"],
            &["9", "86401", "-60", "60.0"],
            number(" from 10 to 86400"),
        ),
        (
            &["max_key_age_seconds", "connect_timeout_seconds"],
            &["-1", "null", "7200.0"],
            number(" of 0 or more"),
        ),
    ] {
        for (key, value) in keys.iter().flat_map(|key| values.iter().map(move |v| (key, v))) {
            problem_in_file(key, value, &expected);
        }
    }
    for key in ["client_ids", "groups", "required_scopes"] {
        problem_in_file(key, "[]", "it is empty, expected a value or no such setting");
        problem_in_file(key, r#"["x",""]"#, "it has an empty item");
    }
    let clients =
        "it is not a list of client IDs such as `5a1b2c3d4e5f6g7h8i9j0k1l2m`, or only `any`";
    problem_in_file("client_ids", r#"["any","x"]"#, clients);
    problem_in_file("client_ids", r#"["x y"]"#, clients);
    problem_in_file("client_ids", r#"["x,y"]"#, clients);
    let space = "invalid scope: it contains a space, so it is more than one scope; expected a scope such as `activity/*`";
    problem_in_file("required_scopes", r#"["a/b c/d"]"#, space);
}

#[test]
fn numbers_are_accepted_up_to_their_limits() {
    for (settings, is_good) in [
        (&[("leeway_seconds", "0")][..], true),
        (&[("leeway_seconds", "300")], true),
        (&[("refresh_interval_seconds", "10")], true),
        (&[("refresh_interval_seconds", "86400")], true),
        (&[("max_key_age_seconds", "300")], true),
        (&[("max_key_age_seconds", "10"), ("refresh_interval_seconds", "10")], true),
        (&[("max_key_age_seconds", "10"), ("refresh_interval_seconds", "11")], false),
        (&[("max_key_age_seconds", "86399"), ("refresh_interval_seconds", "86400")], false),
        (&[("max_key_age_seconds", "86400"), ("refresh_interval_seconds", "86400")], true),
        (&[("max_key_age_seconds", "18446744073709551615")], true),
        (&[("max_key_age_seconds", "18446744073709551616")], false),
        (&[("connect_timeout_seconds", "0")], true),
        (&[("connect_timeout_seconds", "18446744073709551615")], true),
    ] {
        let config = with(settings);
        assert_eq!(config.is_ok(), is_good, "{settings:?}: {config:?}");
        let Ok(config) = config else { continue };
        // The builder has nothing against what was accepted.
        let started = config.verifier_builder().build_with_jwks(keys().issuer.jwks());
        assert!(started.is_ok(), "{settings:?}: {started:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let settings = [
        ("issuer", "http://issuer.example/?"),
        ("jwks_url", "ftp://keys.example"),
        ("client_ids", "any,abc"),
        ("required_scopes", "a,b"),
        ("groups", ""),
        ("leeway_seconds", "301"),
        ("refresh_interval_seconds", "1"),
        ("max_key_age_seconds", "x"),
        ("connect_timeout_seconds", "x"),
        ("aud", "x"),
    ];
    let problems = from_vars(&settings).unwrap_err();
    assert_eq!(problems.len(), settings.len(), "{problems:#?}");
    for (key, _) in settings {
        let name = format!("`{}`: ", variable(key));
        assert_eq!(problems.iter().filter(|text| text.starts_with(&name)).count(), 1, "{name}");
    }
    let members = settings.map(|(key, value)| (key, format!("{value:?}")));
    let error = from_json(&object(members)).unwrap_err();
    for (key, _) in settings {
        assert_eq!(error.matches(&format!("`{key}`: ")).count(), 1, "{key}: {error}");
    }
}

#[test]
fn pool_can_be_named_in_only_one_way() {
    let both = from_vars(&[
        ("user_pool_id", POOL),
        ("issuer", "https://issuer.example"),
        ("client_ids", "any"),
    ]);
    let expected = "`COGNITO_ISSUER`: `COGNITO_USER_POOL_ID` is set too, expected only one of them";
    assert_eq!(both.unwrap_err(), [expected]);
    // The URL of the keys is checked even if the pool is not known.
    for pool in [&[][..], &[("user_pool_id", "x")], &[("user_pool_id", ""), ("issuer", "")]] {
        let settings = [pool, &[("jwks_url", "ftp://x"), ("client_ids", "any")]].concat();
        let problems = from_vars(&settings).unwrap_err();
        assert!(problems.len() > 1, "{problems:?}");
        let last = problems.last().unwrap();
        assert!(last.starts_with("`COGNITO_JWKS_URL`: invalid URL: it"), "{problems:?}");
        // A valid URL does not replace the pool.
        let settings = [pool, &[("jwks_url", "https://x"), ("client_ids", "any")]].concat();
        let problems = from_vars(&settings).unwrap_err();
        assert!(problems.iter().all(|text| !text.contains("JWKS_URL")), "{problems:?}");
    }
}

#[test]
fn setting_that_is_set_twice_is_an_error() {
    for (key, value, json) in GOOD {
        let mut settings = GOOD.map(|(key, value, _)| (key, value)).to_vec();
        settings.push((key, value));
        let expected = format!("`{}`: it is set more than once", variable(key));
        assert_eq!(from_vars(&settings).unwrap_err(), [expected], "{key}");
        let members = GOOD.into_iter().chain([(key, value, json)]);
        let members = members.map(|(key, _, json)| (key, json.to_owned()));
        let error = from_json(&object(members)).unwrap_err();
        assert!(error.contains(&format!("`{key}`: it is set more than once")), "{key}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn value_that_is_not_unicode_is_an_error_and_neither_repeated_nor_missing() {
    use std::os::unix::ffi::OsStringExt;

    let opaque = |text: &str| OsString::from_vec([text.as_bytes(), b"\xff\xfe"].concat());
    let usual = |key: &'static str| {
        let replaced = if key == "issuer" { "user_pool_id" } else { key };
        let usual = [("user_pool_id", POOL), ("client_ids", "any")].into_iter();
        let usual = usual.filter(move |(other, _)| *other != replaced);
        usual.map(|(key, value)| (OsString::from(variable(key)), OsString::from(value)))
    };
    for key in GOOD.iter().map(|(key, ..)| *key).chain(["user_pool_id"]) {
        let vars = usual(key).chain([(OsString::from(variable(key)), opaque("S3CR3T"))]);
        let expected = format!("`{}`: it is not Unicode", variable(key));
        assert_eq!(from_names(vars).unwrap_err(), [expected]);
    }
    // Names that are not Unicode.
    let vars = usual("").chain([(opaque("COGNITO_ISSUER"), OsString::from("x"))]);
    let problems = from_names(vars).unwrap_err().concat();
    assert!(problems.contains("unknown setting, did you mean `COGNITO_ISSUER`?"), "{problems}");
    assert!(from_names(usual("").chain([(opaque("OTHER"), opaque("x"))])).is_ok());
}

#[test]
fn number_that_cannot_be_read_is_the_only_problem() {
    let settings = [("refresh_interval_seconds", "x"), ("max_key_age_seconds", "60")];
    let expected = "`COGNITO_REFRESH_INTERVAL_SECONDS`: it is not an integer from 10 to 86400";
    assert_eq!(with(&settings).unwrap_err(), [expected]);
}

const SECRET: &str = "S3CR3T";

#[test]
fn no_value_is_repeated_in_an_error() {
    let keys = GOOD.map(|(key, ..)| key);
    let keys = keys.iter().copied().chain(["user_pool_id", "client_secret", "no_such_key"]);
    let values = [
        "S3CR3T",
        " S3CR3T ",
        "S3CR3T,any",
        "S3CR3T any",
        "\"S3CR3T\"",
        "http://S3CR3T",
        "https://S3CR3T@x",
        "https://x/?S3CR3T#S3CR3T",
        "us-east-1_S3CR3T!",
        "-S3CR3T",
        "S3CR3T\u{e9}",
    ];
    let mut errors = 0;
    for (key, value) in keys.flat_map(|key| values.map(|value| (key, value))) {
        let mut texts = Vec::new();
        let texts_of = |problems: Vec<String>| problems.join("\n");
        // By itself, next to valid ones, and twice.
        texts.extend(from_vars(&[(key, value)]).err().map(texts_of));
        texts.extend(with(&[(key, value), ("leeway_seconds", "x")]).err().map(texts_of));
        texts.extend(with(&[(key, value), (key, value)]).err().map(texts_of));
        for json in [
            format!("{value:?}"),
            format!("[{value:?}]"),
            format!("[{value:?},1]"),
            format!("{{{value:?}:{value:?}}}"),
            format!("[[{value:?}]]"),
        ] {
            texts.extend(from_json(&format!("{{{key:?}:{json}}}")).err());
            texts.extend(from_json(&format!("{{{key:?}:{json},{key:?}:{json}}}")).err());
        }
        for text in texts {
            errors += 1;
            assert!(!text.contains(SECRET), "{key}={value}: {text}");
        }
    }
    assert!(errors > 1_000, "{errors}");
    // Numbers, too.
    let error = from_json(r#"{"leeway_seconds":987654321,"max_key_age_seconds":-987654321}"#);
    assert!(!error.unwrap_err().contains("987654321"));
}

#[test]
fn no_value_of_a_toml_file_is_repeated() {
    for (key, _, _) in GOOD {
        for value in ["[[\"S3CR3T\"]]", "{ S3CR3T = 1 }"] {
            let error = from_toml(&format!("client_secret = 1\n{key} = {value}\n")).unwrap_err();
            assert!(error.contains("`client_secret`: unknown setting"), "{error}");
            assert!(!error.contains(SECRET), "{key}: {error}");
        }
        // As the only line, which is the one that a TOML error shows.
        let error = from_toml(&format!("{key} = [[\"S3CR3T\"]]")).unwrap_err();
        assert!(!error.contains(SECRET), "{key}: {error}");
        // And inside the settings of an application.
        let text = format!("[cognito]\n{key} = [[\"S3CR3T\"]]\n");
        let error = toml::from_str::<HashMap<String, Config>>(&text).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`: ")), "{error}");
        assert!(!error.contains(SECRET), "{key}: {error}");
    }
}

#[test]
fn value_in_place_of_the_settings_is_not_repeated() {
    for text in ["\"S3CR3T\"", "[\"S3CR3T\"]", "987654321", "true", "null"] {
        let error = from_json(text).unwrap_err();
        assert!(error.contains("a table of settings"), "{error}");
        assert!(!error.contains(SECRET) && !error.contains("987654321"), "{error}");
    }
}

#[test]
fn page_names_every_setting() {
    let page = include_str!("../../src/config/mod.rs");
    for key in GOOD.map(|(key, ..)| key).iter().chain(&["user_pool_id"]) {
        let row = format!("/// | `{}` | `{key}` |", variable(key));
        assert!(page.contains(&row), "{row}");
    }
}

fn kind(config: &Config, token: &str) -> Option<VerifyErrorKind> {
    let verifier = config.verifier_builder().build_with_jwks(issuer().jwks()).unwrap();
    verifier.try_verify(token).err().map(|error| error.kind())
}

#[test]
fn client_ids_change_which_tokens_are_accepted() {
    let wrong = Some(VerifyErrorKind::WrongClient);
    let token = |client: &str| issuer().machine_token(client).sign();
    for (ids, client, expected) in [
        ("one", "one", None),
        ("one", "two", wrong),
        ("one", "on", wrong),
        ("one two", "two", None),
        ("one,two", "two", None),
        (" one , two\n", "one", None),
        ("one,two", "one,two", wrong),
        ("any", "any client", None),
        (" any ", "any client", None),
        ("anyone", "any", wrong),
        ("a_b+c-d", "a_b+c-d", None),
    ] {
        let config = with(&[("client_ids", ids)]).unwrap();
        assert_eq!(kind(&config, &token(client)), expected, "{ids:?}: {client}");
    }
    for (ids, client, expected) in [
        (r#"["one","two"]"#, "two", None),
        (r#"["one","two"]"#, "three", wrong),
        (r#"["any"]"#, "any client", None),
        (r#""one,two""#, "two", None),
    ] {
        let json = format!(r#"{{"user_pool_id":"{POOL}","client_ids":{ids}}}"#);
        assert_eq!(kind(&from_json(&json).unwrap(), &token(client)), expected, "{ids}: {client}");
    }
}

#[test]
fn audience_and_groups_change_which_tokens_are_accepted() {
    let aud = |aud: &str| machine("").claim("aud", aud).sign();
    let config = with(&[("audience", "https://a")]).unwrap();
    assert_eq!(kind(&config, &aud("https://a")), None);
    assert_eq!(kind(&config, &aud("https://b")), Some(VerifyErrorKind::WrongAudience));
    assert_eq!(kind(&config, &machine("").sign()), Some(VerifyErrorKind::WrongAudience));
    assert_eq!(kind(&with(&[]).unwrap(), &aud("https://b")), None);

    let config = with(&[("audience_if_present", "https://a b")]).unwrap();
    for token in [aud("https://a"), aud("b"), machine("").sign()] {
        assert_eq!(kind(&config, &token), None);
    }
    assert_eq!(kind(&config, &aud("https://b")), Some(VerifyErrorKind::WrongAudience));
    let both = with(&[("audience", "https://a"), ("audience_if_present", "https://a")]);
    let expected = "`COGNITO_AUDIENCE_IF_PRESENT`: `COGNITO_AUDIENCE` is set too, expected only \
                    one of them";
    assert_eq!(both.unwrap_err(), [expected]);
    let malformed = "`COGNITO_AUDIENCE_IF_PRESENT`: an item has a `:`, but is not an absolute URI";
    assert_eq!(with(&[("audience_if_present", ":a")]).unwrap_err(), [malformed]);

    let member = |groups: &[&str]| {
        let token = issuer().user_token(CLIENT, "alice").claim("cognito:groups", groups);
        token.sign()
    };
    let forbidden = Some(VerifyErrorKind::Forbidden);
    let config = with(&[("groups", "readers  writers")]).unwrap();
    assert_eq!(kind(&config, &member(&["x", "writers"])), None);
    assert_eq!(kind(&config, &member(&["readers"])), None);
    assert_eq!(kind(&config, &member(&["x"])), forbidden);
    assert_eq!(kind(&config, &member(&["readers  writers"])), forbidden);
    assert_eq!(kind(&config, &machine("").sign()), forbidden);
    assert_eq!(kind(&with(&[]).unwrap(), &member(&["x"])), None);
}

#[test]
fn leeway_changes_which_tokens_are_accepted() {
    let now = SystemTime::now();
    let token = machine("").issued_at(now).expires_at(now).sign();
    let whole = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for (settings, seconds, expected) in [
        (&[("leeway_seconds", "30")][..], 29, None),
        (&[("leeway_seconds", "30")], 30, Some(VerifyErrorKind::Expired)),
        (&[("leeway_seconds", "300")], 299, None),
        (&[("leeway_seconds", "300")], 300, Some(VerifyErrorKind::Expired)),
        (&[], 0, Some(VerifyErrorKind::Expired)),
        (&[("leeway_seconds", "0")], 0, Some(VerifyErrorKind::Expired)),
        (&[], -1, None),
    ] {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(whole.strict_add_signed(seconds));
        let verifier = with(settings).unwrap().verifier_builder().clock(move || time);
        let verifier = verifier.build_with_jwks(issuer().jwks()).unwrap();
        let kind = verifier.try_verify(&token).err().map(|error| error.kind());
        assert_eq!(kind, expected, "{settings:?} {seconds}");
    }
}

#[tokio::test]
async fn required_scopes_are_enforced_by_the_layer_without_another_layer() {
    for (scopes, granted, status) in [
        (Some("a/b c/d"), "c/d x/y a/b", 200),
        (Some("a/b c/d"), "a/b", 403),
        (Some("a/b c/d"), "c/d", 403),
        (Some("activity/*"), "activity/*", 200),
        (Some("activity/*"), "activity/read", 403),
        (None, "", 200),
    ] {
        let settings = scopes.map(|scopes| ("required_scopes", scopes));
        let config = with(settings.as_slice()).unwrap();
        let verifier = config.verifier_builder().build_with_jwks(issuer().jwks()).unwrap();
        let value = format!("Bearer {}", machine(granted).sign());
        let service = RequireToken::new(verifier).layer(Plain);
        let response = service.oneshot(request(Some(&value))).await.unwrap();
        if let Some(rejection) = response.extensions().get::<tower_cognito::Rejection>() {
            let named = rejection.required_scopes().iter().map(Scope::as_str).collect::<Vec<_>>();
            assert_eq!(Some(&*named.join(" ")), scopes);
        }
        assert_eq!(response.status(), status, "{scopes:?} {granted}");
    }
}

#[test]
fn issuer_changes_which_tokens_are_accepted() {
    let token = |iss: &str| machine("").claim("iss", iss).sign();
    let unknown = Some(VerifyErrorKind::UnknownIssuer);
    let config = from_vars(&[("issuer", "https://proxy.example/p"), ("client_ids", CLIENT)]);
    let config = config.unwrap();
    assert_eq!(kind(&config, &token("https://proxy.example/p")), None);
    assert_eq!(kind(&config, &token("https://proxy.example/p/")), unknown);
    assert_eq!(kind(&config, &token(issuer().issuer())), unknown);
    let config = with(&[]).unwrap();
    assert_eq!(kind(&config, &token(issuer().issuer())), None);
    let updated = format!("https://issuer-cognito-idp.us-east-1.amazonaws.com/{POOL}");
    assert_eq!(kind(&config, &token(&updated)), None);
    assert_eq!(kind(&config, &token("https://proxy.example/p")), unknown);
    let config = with(&[("user_pool_id", "us-east-1_Other")]).unwrap();
    assert_eq!(kind(&config, &token(issuer().issuer())), unknown);
}

#[tokio::test]
async fn keys_are_fetched_from_the_url_that_is_set() {
    let emulator = "http://127.0.0.1:4566/us-east-1_Local";
    for (settings, expected) in [
        (
            &[("user_pool_id", POOL)][..],
            format!("https://cognito-idp.us-east-1.amazonaws.com/{POOL}/.well-known/jwks.json"),
        ),
        (&[("issuer", emulator)], format!("{emulator}/.well-known/jwks.json")),
        (
            &[("user_pool_id", POOL), ("jwks_url", "https://keys.example/set?x=1")],
            "https://keys.example/set?x=1".to_owned(),
        ),
        (
            &[("issuer", emulator), ("jwks_url", "http://localhost:1/set")],
            "http://localhost:1/set".to_owned(),
        ),
    ] {
        let fake = Fake::new(old_set());
        let config = from_vars(&[settings, &[("client_ids", "any")]].concat()).unwrap();
        config.verifier_builder().jwks_fetcher(fake.fetcher()).connect().await.unwrap();
        assert_eq!(fake.urls(), [expected], "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_interval_is_the_one_that_is_set() {
    for (settings, least, most) in [
        (&[("refresh_interval_seconds", "60")][..], s(48), s(60)),
        (&[("refresh_interval_seconds", "10")], s(8), s(10)),
        (&[("refresh_interval_seconds", "86400")], s(69_120), s(86_400)),
        (&[], s(240), s(300)),
    ] {
        let fake = Fake::new(old_set());
        let builder = with(settings).unwrap().verifier_builder().clock(fake.clock());
        let verifier = builder.jwks_fetcher(fake.fetcher()).connect().await.unwrap();
        sleep(most * 4).await;
        let times = fake.times();
        assert!(times.len() >= 4, "{settings:?}: {}", times.len());
        for pair in times.windows(2) {
            let gap = pair[1] - pair[0];
            assert!((least..=most + s(1)).contains(&gap), "{settings:?}: {gap:?}");
        }
        drop(verifier);
    }
}

#[tokio::test(start_paused = true)]
async fn max_key_age_is_the_one_that_is_set() {
    for (settings, most) in [(&[("max_key_age_seconds", "600")][..], s(600)), (&[], s(86_400))] {
        let fake = Fake::new(old_set());
        let builder = with(settings).unwrap().verifier_builder().clock(fake.clock());
        let verifier = builder.jwks_fetcher(fake.fetcher()).connect().await.unwrap();
        fake.answers(Reply::Status(500));
        sleep(most - s(1)).await;
        assert!(verifier.try_verify(&keys().old_token).is_ok(), "{settings:?}");
        sleep(s(2)).await;
        let error = verifier.try_verify(&keys().old_token).unwrap_err();
        assert_eq!(error.kind(), VerifyErrorKind::KeysUnavailable, "{settings:?}");
        assert_eq!(verifier.health(), Health::NotReady);
    }
}

#[tokio::test(start_paused = true)]
async fn connect_timeout_is_the_one_that_is_set() {
    for (settings, least, most) in [
        (&[("connect_timeout_seconds", "3")][..], s(3), s(4)),
        (&[("connect_timeout_seconds", "0")], s(0), s(1)),
        (&[], s(10), s(11)),
    ] {
        let fake = Fake::new(Reply::Status(500));
        let builder = with(settings).unwrap().verifier_builder();
        let builder = builder.jwks_fetcher(fake.fetcher());
        let begun = Instant::now();
        assert!(builder.connect().await.is_err());
        let time = begun.elapsed();
        assert!((least..most).contains(&time), "{settings:?}: {time:?}");
    }
    // The largest number is accepted.
    let fake = Fake::new(old_set());
    let builder =
        with(&[("connect_timeout_seconds", "18446744073709551615")]).unwrap().verifier_builder();
    assert!(builder.jwks_fetcher(fake.fetcher()).connect().await.is_ok());
}
