//! From an ID or a URL to a pool: what is accepted, what is rejected, whom it trusts and where it
//! looks for keys.

use std::time::{Duration, SystemTime};

use tower_cognito::test_issuer::Fault;
use tower_cognito::{
    ClientIds, InvalidUrl, RequireToken, ResourceMetadata, Rules, StartErrorKind, UserPool,
    Verifier, VerifierBuilder, VerifyErrorKind, verify,
};

use super::fake_issuer::{Fake, old_set};
use super::support::{CLIENT, issuer, machine, now};

const ID: &str = "ap-northeast-1_AbCdEfGhI";
const ORIGINAL: &str = "https://cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_AbCdEfGhI";
const UPDATED: &str =
    "https://issuer-cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_AbCdEfGhI";

/// Whether a token that names this issuer, and is good otherwise, is accepted for the pool.
fn trusts(pool: &UserPool, named: &str) -> bool {
    let token = machine("a/b").issued_at(now()).claim("iss", named).sign();
    let rules = Rules::new(pool.clone(), ClientIds::only([CLIENT]));
    match verify(&token, &issuer().jwks(), &rules, now()) {
        Ok(token) => {
            assert_eq!(token.issuer(), named);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), VerifyErrorKind::UnknownIssuer);
            false
        }
    }
}

#[test]
fn pool_returns_every_issuer_that_it_trusts() {
    let pool = UserPool::new(ID).unwrap();
    assert_eq!(pool.issuers().collect::<Vec<_>>(), [ORIGINAL, UPDATED]);
    let pool = pool.add_issuer("https://a.example").unwrap();
    assert_eq!(pool.issuers().collect::<Vec<_>>(), [ORIGINAL, UPDATED, "https://a.example"]);
    let rules = Rules::new(pool.clone(), ClientIds::any());
    assert_eq!(*rules.pool(), pool);
}

#[tokio::test]
async fn two_pools_have_their_keys_from_two_places() {
    let pool = |issuer: &str, jwks_url: &str| {
        let pool = UserPool::from_issuer(issuer).unwrap().with_jwks_url(jwks_url).unwrap();
        Verifier::builder(Rules::new(pool, ClientIds::any()))
    };
    let green = |jwks_url: &str| {
        let pool = UserPool::from_issuer("https://issuer.example/green").unwrap();
        Rules::new(pool.with_jwks_url(jwks_url).unwrap(), ClientIds::any())
    };
    let (blue, one, other) =
        ("https://issuer.example/blue", "https://proxy.example/1", "https://proxy.example/2");
    let error = pool(blue, one).add_pool(green(one)).connect_lazy().unwrap_err();
    let expected = "https://issuer.example/green: another pool has its keys from the same place";
    assert_eq!(error.problems().collect::<Vec<_>>(), [expected]);
    assert!(pool(blue, one).add_pool(green(other)).connect_lazy().is_ok());
    let with_files = |of_green: &str| {
        let from_file = |issuer: &str, file: &str| {
            let pool = UserPool::from_issuer(issuer).unwrap().with_jwks_url(one).unwrap();
            Rules::new(pool.with_jwks_file(file), ClientIds::any())
        };
        let green = from_file("https://issuer.example/green", of_green);
        Verifier::builder(from_file(blue, "/blue.json")).add_pool(green).connect_lazy()
    };
    let error = with_files("/blue.json").unwrap_err();
    assert_eq!(error.problems().collect::<Vec<_>>(), [expected]);
    assert!(with_files("/green.json").is_ok());
}

#[tokio::test]
async fn test_issuer_has_only_the_keys_of_its_own_pool() {
    let other = UserPool::from_issuer("https://issuer.example/other").unwrap();
    let own = Rules::new(issuer().user_pool(), ClientIds::any());
    let both = Verifier::builder(own.clone()).add_pool(Rules::new(other, ClientIds::any()));
    let error = both.jwks_fetcher(issuer().clone()).connect().await.unwrap_err();
    assert_eq!(error.problems().count(), 1, "{error}");
    assert!(error.to_string().contains("https://issuer.example/other"), "{error}");
    assert!(Verifier::builder(own).jwks_fetcher(issuer().clone()).connect().await.is_ok());
}

#[tokio::test]
async fn query_of_an_address_is_never_displayed() {
    let pool = UserPool::from_issuer("http://127.0.0.1:1/pool").unwrap();
    let pool = pool.with_jwks_url("http://127.0.0.1:1/jwks?sig=s3cr3t").unwrap();
    let rules = Rules::new(pool.clone(), ClientIds::any());
    let builder = Verifier::builder(rules.clone());
    let mut texts = vec![format!("{pool:?}"), format!("{rules:?}"), format!("{builder:?}")];
    let verifier = builder.connect_lazy().unwrap();
    texts.push(format!("{verifier:?}"));
    texts.push(format!("{:?}", RequireToken::new(verifier.clone())));
    texts.push(verifier.ready(Duration::ZERO).await.unwrap_err().to_string());
    for text in texts {
        assert!(text.contains("http://127.0.0.1:1/jwks") && !text.contains("s3cr3t"), "{text}");
    }
}

/// The address that a verifier fetches the pool's keys from.
async fn address_of(pool: UserPool) -> String {
    let fake = Fake::new(old_set());
    fake.builder_for(Rules::new(pool, ClientIds::any())).connect().await.unwrap();
    let [url] = fake.urls().try_into().unwrap();
    url
}

// By ID

#[test]
fn both_issuers_of_a_pool_are_trusted_and_no_third() {
    let pool = UserPool::new(ID).unwrap();
    assert!(trusts(&pool, ORIGINAL));
    assert!(trusts(&pool, UPDATED));
    for other in [
        "https://cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_Another",
        "https://issuer-cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_Another",
        "https://cognito-idp.us-east-1.amazonaws.com/ap-northeast-1_AbCdEfGhI",
        "https://cognito-idp-fips.ap-northeast-1.amazonaws.com/ap-northeast-1_AbCdEfGhI",
        "https://xissuer-cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_AbCdEfGhI",
        "https://cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_AbCdEfGhI/",
        "https://cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_abcdefghi",
        "http://cognito-idp.ap-northeast-1.amazonaws.com/ap-northeast-1_AbCdEfGhI",
        "https://cognito-idp.ap-northeast-1.amazonaws.com",
        ID,
        "",
    ] {
        assert!(!trusts(&pool, other), "{other}");
    }
}

#[tokio::test]
async fn keys_come_from_the_original_host() {
    let expected = format!("{ORIGINAL}/.well-known/jwks.json");
    assert_eq!(address_of(UserPool::new(ID).unwrap()).await, expected);
    let more = UserPool::new(ID).unwrap().add_issuer("https://replica.example/pool").unwrap();
    assert_eq!(address_of(more).await, expected);
}

#[test]
fn id_has_a_region_and_a_name() {
    for id in [
        ID,
        "us-east-1_a",
        "us-gov-west-1_AbCdEfGhI",
        "eu-central-2_0123456789",
        "mx-central-1_AbCdEfGhI",
        "us-east-1_TestIssuer",
    ] {
        assert!(UserPool::new(id).is_ok(), "{id}");
    }
    let longest = format!("us-east-1_{}", "a".repeat(45));
    assert_eq!(longest.len(), 55);
    assert!(UserPool::new(&longest).is_ok());
}

#[test]
fn invalid_id_is_rejected_with_a_helpful_text() {
    #[track_caller]
    fn check(id: &str, problem: &str) {
        let expected = format!(
            "invalid user pool ID: {problem}; expected an ID such as `ap-northeast-1_AbCdEfGhI`"
        );
        assert_eq!(UserPool::new(id).unwrap_err().to_string(), expected, "{id:?}");
    }

    check("", "it is empty");
    for url in [ORIGINAL, "http://localhost:9229/local_1", "cognito://us-east-1_a"] {
        check(url, "it is a URL");
    }
    for id in [format!("us-east-1_{}", "a".repeat(46)), "a".repeat(100_000)] {
        check(&id, "it is longer than 55 characters");
    }
    for id in ["ap-northeast-1", "AbCdEfGhI", "ap-northeast-1-AbCdEfGhI", "my pool", "/"] {
        check(id, "it has no `_` between region and name");
    }
    for region in [
        "cn-north-1",
        "cn-northwest-1",
        "eusc-de-east-1",
        "us-iso-east-1",
        "us-isob-east-1",
        "us-isof-south-1",
        "eu-isoe-west-1",
    ] {
        check(&format!("{region}_AbCdEfGhI"), "the issuers of this partition are not known");
    }
    check("local_AbCdEfGhI", "it is the ID of an emulator's pool");
    for id in [
        "_AbCdEfGhI",
        "AP-NORTHEAST-1_AbCdEfGhI",
        "Ap-northeast-1_AbCdEfGhI",
        "a1-northeast-1_AbCdEfGhI",
        "ap-northeast_AbCdEfGhI",
        "ap-northeast-_AbCdEfGhI",
        "ap-northeast-x_AbCdEfGhI",
        "ap-northeast-10_AbCdEfGhI",
        "ap-1_AbCdEfGhI",
        "ap--1_AbCdEfGhI",
        "ap-north--east-1_AbCdEfGhI",
        "-northeast-1_AbCdEfGhI",
        "a-northeast-1_AbCdEfGhI",
        "apx-northeast-1_AbCdEfGhI",
        "ap-n0rtheast-1_AbCdEfGhI",
        " ap-northeast-1_AbCdEfGhI",
        "ap-northeast-1 _AbCdEfGhI",
        "ap-northeast-\u{661}_AbCdEfGhI",
        "evil.example/x-1_AbCdEfGhI",
        "us-east-1.evil.example#-1_a",
        "us-e@ast-1_a",
    ] {
        check(id, "it does not start with a region");
    }
    check("ap-northeast-1_", "it has no name after `_`");
    for id in [
        "ap-northeast-1_AbCd EfGhI",
        "ap-northeast-1_AbCdEfGhI ",
        "ap-northeast-1_AbCdEfGhI\n",
        "ap-northeast-1_AbCd-EfGhI",
        "ap-northeast-1_AbCd_EfGhI",
        "ap-northeast-1__AbCdEfGhI",
        "ap-northeast-1_AbCdEfGhI/",
        "ap-northeast-1_../evil",
        "ap-northeast-1_a?b",
        "ap-northeast-1_a%2fb",
        "ap-northeast-1_\u{e9}",
    ] {
        check(id, "the name after `_` has a character other than a letter or a digit");
    }
}

// By URL

#[tokio::test]
async fn issuer_is_trusted_as_it_is_written() {
    const CHINESE: &str = "https://cognito-idp.cn-north-1.amazonaws.com.cn/cn-north-1_AbCdEfGhI";

    for (issuer, base) in [
        ("https://issuer.example", "https://issuer.example"),
        ("https://issuer.example/", "https://issuer.example"),
        ("https://issuer.example/pool", "https://issuer.example/pool"),
        ("https://issuer.example/pool/", "https://issuer.example/pool"),
        ("http://127.0.0.1:4566/a_b", "http://127.0.0.1:4566/a_b"),
        (CHINESE, CHINESE),
    ] {
        let pool = UserPool::from_issuer(issuer).unwrap();
        assert!(trusts(&pool, issuer), "{issuer}");
        assert!(!trusts(&pool, &format!("{issuer}/")), "{issuer}");
        assert!(!trusts(&pool, issuer.strip_suffix('/').unwrap_or("")), "{issuer}");
        assert!(!trusts(&pool, &issuer.to_uppercase()), "{issuer}");
        let address = format!("{base}/.well-known/jwks.json");
        assert_eq!(address_of(pool).await, address, "{issuer}");
    }
    // Of Cognito's two formats, an issuer that is written out is one.
    let pool = UserPool::from_issuer(ORIGINAL).unwrap();
    assert!(trusts(&pool, ORIGINAL));
    assert!(!trusts(&pool, UPDATED));
}

#[tokio::test]
async fn keys_may_come_from_elsewhere() {
    let url = "https://proxy.example/keys?pool=a";
    let pool = UserPool::new(ID).unwrap().with_jwks_url(url).unwrap();
    assert!(trusts(&pool, ORIGINAL));
    assert!(trusts(&pool, UPDATED));
    assert!(!trusts(&pool, "https://proxy.example/keys"));
    assert!(!trusts(&pool, url));
    assert_eq!(address_of(pool).await, url);
}

#[test]
fn added_issuer_is_trusted_besides_the_others() {
    let replica = "https://cognito-idp.us-west-2.amazonaws.com/us-west-2_Replica";
    let pool = UserPool::new(ID).unwrap();
    assert!(!trusts(&pool, replica));
    let pool = pool.add_issuer(replica).unwrap();
    for trusted in [ORIGINAL, UPDATED, replica] {
        assert!(trusts(&pool, trusted), "{trusted}");
    }
    // Its other format is not guessed.
    assert!(!trusts(&pool, "https://issuer-cognito-idp.us-west-2.amazonaws.com/us-west-2_Replica"));
    let pool = pool.add_issuer("https://another.example").unwrap();
    assert!(trusts(&pool, replica) && trusts(&pool, "https://another.example"));
}

type Constructor = fn(&str) -> Result<(), InvalidUrl>;

/// Each function that takes a URL, and what it says of a query unless it accepts one.
fn constructors() -> [(&'static str, Option<&'static str>, Constructor); 5] {
    const SERVER: &str = "https://issuer.example";
    let (issuer, resource) = (Some("an issuer has no query"), Some("it contains a query"));
    [
        ("from_issuer", issuer, |url| UserPool::from_issuer(url).map(drop)),
        ("jwks_url", None, |url| UserPool::new(ID).unwrap().with_jwks_url(url).map(drop)),
        ("add_issuer", issuer, |url| UserPool::new(ID).unwrap().add_issuer(url).map(drop)),
        ("resource", resource, |url| ResourceMetadata::new(url, [SERVER]).map(drop)),
        ("server", resource, |url| ResourceMetadata::new(SERVER, [SERVER, url]).map(drop)),
    ]
}

#[test]
fn every_constructor_accepts_valid_urls() {
    for (function, _, new) in constructors() {
        for url in [
            "https://issuer.example",
            "https://issuer.example/",
            "https://issuer.example/a/b_c-d~e.f",
            "https://issuer.example/a%20b",
            "https://issuer.example:443/a",
            "https://issuer.example:1",
            "https://issuer.example:65535",
            "https://Issuer.Example/a",
            "https://a_b.example/a",
            "https://192.0.2.1/a",
            "https://[2001:db8::1]/a",
            "https://[2001:db8::1]:8443/a",
            "https://localhost/a",
            "http://localhost",
            "http://localhost:9229/local_1",
            "http://LocalHost:9229/local_1",
            "http://127.0.0.1/a",
            "http://127.255.255.254:1/a",
            "http://[::1]/a",
            "http://[0:0:0:0:0:0:0:1]/a",
            "http://[::1]:4566/a",
        ] {
            assert!(new(url).is_ok(), "{function}: {url}");
        }
    }
}

#[test]
fn every_constructor_rejects_invalid_urls_with_the_reason() {
    const AUTHORITY: &str = "its host is neither a DNS name nor an IP address";
    const CHARACTER: &str = "it contains a character that is not allowed in a URL";
    const FRAGMENT: &str = "it contains a fragment";
    const PORT: &str = "its port is not a number from 1 to 65535";
    const SCHEME: &str = "it does not begin with `https://`";
    const USER: &str = "it contains user information before `@`";

    let cases = [
        ("", "it is empty"),
        (" ", CHARACTER),
        (" https://issuer.example", CHARACTER),
        ("https://issuer.example ", CHARACTER),
        ("https://issuer.example\n", CHARACTER),
        ("https://issuer.example/\t", CHARACTER),
        ("https://issuer.example/\0", CHARACTER),
        ("https://issuer.example\\@evil.example", CHARACTER),
        ("https:\\\\issuer.example", CHARACTER),
        ("https://iss\u{fc}er.example", CHARACTER),
        ("https://issuer\u{3002}example", CHARACTER),
        ("https://issuer.example/\u{e9}", CHARACTER),
        ("https://issuer.example/\"", CHARACTER),
        ("https://issuer.example/{pool}", CHARACTER),
        ("https://issuer.example/<a>", CHARACTER),
        ("https://issuer.example/a|b", CHARACTER),
        ("https://issuer.example/^", CHARACTER),
        ("https://issuer.example/`", CHARACTER),
        ("https://issuer.example/#", FRAGMENT),
        ("https://issuer.example#a", FRAGMENT),
        ("https://issuer.example/a#@evil.example", FRAGMENT),
        ("issuer.example", SCHEME),
        ("issuer.example/pool", SCHEME),
        ("//issuer.example", SCHEME),
        ("/pool", SCHEME),
        (ID, SCHEME),
        ("HTTPS://issuer.example", SCHEME),
        ("Https://issuer.example", SCHEME),
        ("HTTP://localhost", SCHEME),
        ("ftp://issuer.example", SCHEME),
        ("file:///etc/passwd", SCHEME),
        ("javascript:alert(1)", SCHEME),
        ("httpss://issuer.example", SCHEME),
        ("https:issuer.example", SCHEME),
        ("https:/issuer.example", SCHEME),
        ("https://user@issuer.example", USER),
        ("https://user:secret@issuer.example", USER),
        ("https://@issuer.example", USER),
        ("http://127.0.0.1@evil.example", USER),
        ("http://localhost@evil.example/a", USER),
        ("http://localhost:80@evil.example/a", USER),
        ("https://issuer.example:", PORT),
        ("https://issuer.example:0", PORT),
        ("https://issuer.example:65536", PORT),
        ("https://iss!er.example", AUTHORITY),
        ("https://issuer.example;a", AUTHORITY),
    ];
    for (function, _, new) in constructors() {
        for (url, problem) in cases {
            let error = match new(url) {
                Ok(_) => panic!("{function}: {url:?} is accepted"),
                Err(error) => error.to_string(),
            };
            let expected = format!(
                "invalid URL: {problem}; expected a URL such as `https://issuer.example/pool`"
            );
            assert_eq!(error, expected, "{function}: {url:?}");
        }
    }
}

/// Two parsers may disagree about these URLs. It does not matter which check finds them first.
#[test]
fn every_constructor_rejects_urls_that_parsers_read_differently() {
    for (function, _, new) in constructors() {
        for url in [
            "https://issuer.example:x",
            "https://issuer.example:+443",
            "https://issuer.example:-1",
            "https://issuer.example:443:443",
            "https://issuer.example:4 43",
            "https://2001:db8::1/",
            "https://[2001:db8::1",
            "https://2001:db8::1]",
            "https://[]/",
            "https://[::1]x/",
            "http://127.0.0.1./",
            "http://127.1/",
            "http://0177.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://127.0.0.0x1/",
            "https://999.1.1.1/",
            "https://1.2.3.4.5/",
            "https://./",
            "https://[::1]:/",
            "https://[::1]evil.example/",
            "https://issuer.example,evil.example/",
            "https://a@b@issuer.example/",
            "https://:443/",
            "https://?",
            "https://",
            "https:///pool",
            "https://iss%75er.example",
            "https://%6c%6fcalhost",
            "https://[2001:db8::1%25eth0]/",
            "https://[127.0.0.1]/",
            "https://[v1.a]/",
        ] {
            assert!(new(url).is_err(), "{function}: {url}");
        }
    }
}

#[test]
fn only_the_jwks_url_may_have_a_query() {
    for (function, problem, new) in constructors() {
        let expected = problem.map(|problem| {
            format!("invalid URL: {problem}; expected a URL such as `https://issuer.example/pool`")
        });
        for url in ["https://issuer.example/a?b=c", "https://issuer.example/?", "http://[::1]?a"] {
            let error = new(url).err().map(|error| error.to_string());
            assert_eq!(error, expected, "{function}: {url}");
        }
    }
}

const NOT_LOOPBACK: [&str; 10] = [
    "http://issuer.example",
    "http://localhost.evil.example",
    "http://evil.example/localhost",
    "http://xlocalhost",
    "http://localhost.",
    "http://127.0.0.1.evil.example",
    "http://0.0.0.0",
    "http://128.0.0.1",
    "http://[::ffff:127.0.0.1]",
    "http://[::2]:4566/a",
];

/// An issuer is only compared, so it may be any http URL. Keys are fetched over plain http only from
/// loopback hosts, or from the host that is set.
#[tokio::test(start_paused = true)]
async fn plain_http_keys_are_fetched_only_from_loopback_or_the_host_that_is_set() {
    let start = |pool: UserPool| {
        Verifier::builder(Rules::new(pool, ClientIds::any())).connect_lazy().map(drop)
    };
    for url in NOT_LOOPBACK {
        for pool in [
            UserPool::from_issuer(url).unwrap(),
            UserPool::new(ID).unwrap().with_jwks_url(url).unwrap(),
        ] {
            let error = start(pool.clone()).unwrap_err();
            assert_eq!(error.kind(), StartErrorKind::Config, "{url}");
            assert!(error.to_string().contains("plain http"), "{url}: {error}");
            let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
            assert!(start(pool.clone().with_insecure_jwks_host(host).unwrap()).is_ok(), "{url}");
            assert!(
                start(pool.with_insecure_jwks_host("other.example").unwrap()).is_err(),
                "{url}"
            );
        }
    }
    for host in ["localhost:9229", "127.0.0.1", "[::1]:80"] {
        let pool = UserPool::from_issuer(&format!("http://{host}/local_1")).unwrap();
        assert!(start(pool.clone()).is_ok(), "{host}");
        // The setting would have no effect.
        let error = start(pool.with_insecure_jwks_host(host).unwrap()).unwrap_err();
        assert!(error.to_string().contains("no keys are fetched over plain http"), "{error}");
    }
    for host in ["", "a/b", "a?b", "a@b", "a:0", "http://a", "a b"] {
        assert!(UserPool::new(ID).unwrap().with_insecure_jwks_host(host).is_err(), "{host}");
    }
}

/// Every order of these calls builds the same verifier: settings of one pool are on the pool, so
/// that no call depends on the one before it.
#[tokio::test(start_paused = true)]
async fn builder_calls_in_every_order_build_the_same_verifier() {
    type Call = fn(VerifierBuilder) -> VerifierBuilder;
    fn pool(name: &str) -> Rules {
        let pool = UserPool::from_issuer(&format!("https://issuer.example/{name}")).unwrap();
        let pool = pool.with_initial_jwks(issuer().jwks(), SystemTime::now());
        Rules::new(pool, ClientIds::only([CLIENT]))
    }
    let calls: [Call; 5] = [
        |builder| builder.add_pool(pool("green")),
        |builder| builder.add_pool(pool("red")),
        |builder| builder.max_key_age(Duration::from_secs(3_600)),
        |builder| builder.refresh_interval(Duration::from_secs(60)),
        |builder| builder.jwks_fetcher(Fault::Down),
    ];
    let mut count = 0;
    for order in permutations(calls.len()) {
        let builder = order
            .iter()
            .fold(Verifier::builder(pool("blue")), |builder, index| calls[*index](builder));
        let verifier = builder.connect_lazy().unwrap();
        for name in ["blue", "green", "red"] {
            let token =
                machine("a/b").claim("iss", format!("https://issuer.example/{name}")).sign();
            assert!(verifier.try_verify(&token).is_ok(), "{order:?}: {name}");
        }
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let token = machine("a/b").claim("iss", "https://issuer.example/red").sign();
        let kind = verifier.try_verify(&token).unwrap_err().kind();
        assert_eq!(kind, VerifyErrorKind::KeysUnavailable, "{order:?}");
        count += 1;
    }
    assert_eq!(count, 120);
}

/// Every order of the numbers below `length`.
fn permutations(length: usize) -> Vec<Vec<usize>> {
    (0..length).fold(vec![vec![]], |orders, number| {
        let insert = |order: Vec<usize>| {
            (0..=order.len()).map(move |place| {
                let mut longer = order.clone();
                longer.insert(place, number);
                longer
            })
        };
        orders.into_iter().flat_map(insert).collect()
    })
}
