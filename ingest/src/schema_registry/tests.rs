use super::*;
use crate::config::Secret;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A registry that answers each path from a list, the last for ever; of what it was asked it keeps the count and the
/// last authorization.
struct Fake {
    url: String,
    asked: Arc<AtomicUsize>,
    authorization: Arc<Mutex<String>>,
}

impl Fake {
    fn start(answers: &[(&str, &[(u16, &str)])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap());
        let (asked, authorization) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let mut answers: BTreeMap<String, Vec<(u16, String)>> = answers
            .iter()
            .map(|(path, list)| {
                let list = list
                    .iter()
                    .rev()
                    .map(|(status, body)| (*status, (*body).to_owned()))
                    .collect();
                (format!("/base{path}"), list)
            })
            .collect();
        let (count, kept) = (Arc::clone(&asked), Arc::clone(&authorization));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                for line in lines.take_while(|line| !line.is_empty()) {
                    if let Some(value) = line.strip_prefix("authorization: ") {
                        value.clone_into(&mut kept.lock().unwrap());
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                let path = first.split(' ').nth(1).unwrap_or_default();
                let (status, body) = match answers.get_mut(path) {
                    Some(list) if list.len() > 1 => list.pop().unwrap(),
                    Some(list) => list.last().unwrap().clone(),
                    None => (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned()),
                };
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).unwrap();
            }
        });
        Self {
            url,
            asked,
            authorization,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A registry and the runtime its requests run on.
fn registry(config: &SchemaRegistryConfig) -> (tokio::runtime::Runtime, SchemaRegistry) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let registry = SchemaRegistry::new(config, runtime.handle().clone()).unwrap().unwrap();
    (runtime, registry)
}

fn at(url: &str) -> SchemaRegistryConfig {
    SchemaRegistryConfig {
        url: url.to_owned(),
        ..SchemaRegistryConfig::default()
    }
}

const INT: &str = r#"{"schema":"\"int\""}"#;

#[test]
fn a_schema_is_asked_for_once_however_many_want_it() {
    let fake = Fake::start(&[("/schemas/ids/7", &[(200, INT)])]);
    let (_runtime, registry) = registry(&at(&fake.url));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(registry.schema(7).unwrap().text, "\"int\""));
        }
    });
    assert_eq!((fake.asked(), registry.schema(7).unwrap().kind.as_str()), (1, "AVRO"));
}

#[test]
fn what_a_schema_uses_comes_before_it_and_once() {
    let top = r#"{"schema":"top","schemaType":"PROTOBUF","references":[
        {"name":"a.proto","subject":"a/b","version":1},{"name":"c.proto","subject":"c","version":2}]}"#;
    let a = r#"{"schema":"a","references":[{"name":"c.proto","subject":"c","version":2}]}"#;
    let c = r#"{"schema":"c","references":[{"name":"a.proto","subject":"a/b","version":1}]}"#;
    let fake = Fake::start(&[
        ("/schemas/ids/1", &[(200, top)]),
        ("/subjects/a%2Fb/versions/1", &[(200, a)]),
        ("/subjects/c/versions/2", &[(200, c)]),
    ]);
    let (_runtime, registry) = registry(&at(&fake.url));
    let found = registry.schema(1).unwrap();
    let order: Vec<_> = found
        .references
        .iter()
        .map(|reference| reference.text.as_str())
        .collect();
    assert_eq!((found.kind.as_str(), order), ("PROTOBUF", vec!["c", "a"]));
}

#[test]
fn only_the_registrys_own_word_makes_an_id_unknown() {
    let fake = Fake::start(&[
        ("/schemas/ids/2", &[(404, "not found")]),
        (
            "/schemas/ids/3",
            &[(401, r#"{"error_code":401,"message":"Unauthorized"}"#)],
        ),
        (
            "/schemas/ids/4",
            &[(500, r#"{"error_code":50001,"message":"Error in the backend"}"#)],
        ),
        ("/schemas/ids/5", &[(200, "<html>")]),
    ]);
    let (_runtime, registry) = registry(&at(&fake.url));
    assert!(matches!(registry.schema(1), Err(LookupError::Unknown(_))));
    let remedies = [
        "check the registry's `url`",
        "`username` and `password`",
        "Error in the backend",
        "gives no schema",
    ];
    for (id, remedy) in (2..).zip(remedies) {
        match registry.schema(id) {
            Err(LookupError::Unavailable(why)) => assert!(why.contains(remedy), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_unknown_id_is_asked_for_a_second_time_and_then_believed() {
    let late = [(404, r#"{"error_code":40403}"#), (200, INT)];
    let fake = Fake::start(&[("/schemas/ids/7", &late)]);
    let (_runtime, registry) = registry(&at(&fake.url));
    assert!(registry.schema(7).is_ok(), "a follower that lagged behind");
    assert!(registry.schema(8).is_err());
    let asked = fake.asked();
    assert!(registry.schema(8).is_err());
    assert_eq!(fake.asked(), asked, "not again at once");
}

#[test]
fn a_failure_is_not_kept() {
    let answers = [(503, ""), (503, ""), (200, INT)];
    let fake = Fake::start(&[("/schemas/ids/7", &answers)]);
    let (_runtime, registry) = registry(&at(&fake.url));
    assert!(matches!(registry.schema(7), Err(LookupError::Unavailable(_))));
    assert!(registry.schema(7).is_ok());
}

#[test]
fn those_who_waited_for_a_registry_that_is_not_there_do_not_ask_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (_runtime, registry) = registry(&at(&url));
    std::thread::scope(|scope| {
        for id in 0..40 {
            let registry = &registry;
            scope.spawn(move || assert!(matches!(registry.schema(id), Err(LookupError::Unavailable(_)))));
        }
    });
    assert!(registry.client.outages() < 40);
}

#[test]
fn the_next_address_is_tried_when_one_does_not_answer() {
    let fake = Fake::start(&[("/schemas/ids/7", &[(200, INT)])]);
    let (_runtime, registry) = registry(&at(&format!("http://127.0.0.1:1, {}/", fake.url)));
    assert!(registry.schema(7).is_ok());
}

#[test]
fn a_password_and_a_token_are_sent_and_never_shown() {
    let fake = Fake::start(&[("/schemas/ids/7", &[(200, INT)]), ("/schemas/ids/8", &[(403, "")])]);
    let basic = SchemaRegistryConfig {
        username: Some("me".to_owned()),
        password: Some(Secret::from("hunter2")),
        ..at(&fake.url)
    };
    let bearer = SchemaRegistryConfig {
        token: Some(Secret::from("t0ken")),
        ..at(&fake.url)
    };
    for (config, sent) in [(basic, "Basic bWU6aHVudGVyMg=="), (bearer, "Bearer t0ken")] {
        let (_runtime, registry) = registry(&config);
        assert!(registry.schema(7).is_ok());
        assert_eq!(*fake.authorization.lock().unwrap(), sent);
        let shown = format!("{config:?} {registry:?} {:?}", registry.schema(8));
        assert!(!shown.contains("hunter2") && !shown.contains("t0ken"), "{shown}");
    }
}

#[test]
fn settings_that_can_not_be_are_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = |config: &SchemaRegistryConfig| SchemaRegistry::new(config, runtime.handle().clone()).unwrap_err();
    assert!(refused(&at("ftp://x")).contains("must begin with http or https"));
    assert!(refused(&at("nonsense")).contains("is no URL"));
    let error = refused(&at("http://me:hunter2@x"));
    assert!(
        error.contains("use `username` and `password`") && !error.contains("hunter2"),
        "{error}"
    );
    let half = SchemaRegistryConfig {
        username: Some("me".to_owned()),
        ..at("http://x")
    };
    assert!(refused(&half).contains("takes `username` and `password`, or `token`"));
    let unread = SchemaRegistryConfig {
        ca: Some("/nowhere.pem".into()),
        ..at("https://x")
    };
    assert!(refused(&unread).contains("/nowhere.pem"));
    assert!(
        SchemaRegistry::new(&at(" "), runtime.handle().clone())
            .unwrap()
            .is_none()
    );
}
