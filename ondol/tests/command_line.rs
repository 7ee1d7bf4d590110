//! What a user reads: the real binary with embedded stores, its messages and its JSON.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use ondol_testkit::s3;
use serde_json::Value;
use std::io::{BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A folder to work in, and perhaps `ondol dev` at work.
struct Desk {
    folder: TempDir,
    server: Option<(Child, String)>,
}

impl Desk {
    fn alone() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: None,
        }
    }

    fn with_dev() -> Self {
        let mut desk = Self::alone();
        let child = desk.dev("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let (child, address) = desk.server.insert((child, String::new()));
        let output = BufReader::new(child.stdout.take().unwrap());
        let document = serde_json::Deserializer::from_reader(output)
            .into_iter::<Value>()
            .next();
        *address = document.unwrap().unwrap()["address"].as_str().unwrap().to_owned();
        desk
    }

    /// `ondol dev` on this desk's data folder.
    fn dev(&self, listen: &str) -> Command {
        let mut command = self.ondol();
        command.args(["dev", "--output", "json", "--listen", listen, "--data", "data"]);
        command
    }

    fn ondol(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ondol"));
        let server = self
            .server
            .as_ref()
            .map_or("http://127.0.0.1:9", |(_, address)| address);
        command
            .current_dir(self.path())
            .env("ONDOL_SERVER", server)
            .env_remove("ONDOL_OUTPUT");
        command
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Standard output of a command that succeeds.
    #[track_caller]
    fn succeeds(&self, line: &str) -> String {
        let output = self.ondol().args(line.split(' ')).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "ondol {line}: {errors}{}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that fails, which prints nothing to standard output.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let output = self.ondol().args(line.split(' ')).output().unwrap();
        failure(line, output)
    }

    /// What a command that fails prints as JSON.
    #[track_caller]
    fn fails_in_json(&self, line: &str) -> Value {
        let output = self
            .ondol()
            .args(line.split(' '))
            .args(["--output", "json"])
            .output()
            .unwrap();
        assert!(!output.status.success(), "ondol {line} succeeded");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "ondol {line}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[track_caller]
fn failure(line: &str, output: Output) -> String {
    assert!(!output.status.success(), "ondol {line} succeeded");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "ondol {line}");
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const DEFINITIONS: &str = r#"
[source.payments]
kafka  = "payments"
time   = "ts"
schema = { card = "string", amount = "f64", ts = "timestamp" }

[view.card]
from = "payments"
key  = "card"
features.spend = "sum(amount) over 24h"

[model.fraud]
inputs   = { card = "string", amount = "f64" }
features = ["card.*", "amount"]
"#;

#[test]
fn a_first_file_is_written_once_and_never_over_another() {
    let desk = Desk::alone();
    contains(&desk.fails("plan"), &["can't read `features.toml`", "`ondol init`"]);
    contains(&desk.succeeds("init"), &["features.toml", "ondol plan"]);
    desk.write("features.toml", "mine");
    contains(&desk.fails("init"), &["exists already"]);
    assert_eq!(
        std::fs::read_to_string(desk.path().join("features.toml")).unwrap(),
        "mine"
    );
}

#[test]
fn a_server_that_does_not_answer_is_named_with_the_remedy() {
    let desk = Desk::alone();
    contains(
        &desk.fails("ls"),
        &[
            "http://127.0.0.1:9/ can't be reached",
            "`ondol dev` starts every service",
        ],
    );
    let error = desk.fails_in_json("status");
    assert_eq!(error["code"], "unavailable");
    assert!(error["help"].as_str().unwrap().contains("ONDOL_SERVER"));
}

#[test]
fn a_wrong_command_line_is_json_where_json_is_asked_for() {
    let desk = Desk::alone();
    let error = desk.fails_in_json("frobnicate");
    assert_eq!(error["code"], "usage");
    assert!(error["error"].as_str().unwrap().contains("frobnicate"));
    contains(&desk.fails("ls --server nonsense"), &["nonsense", "--server"]);
}

#[test]
fn a_mistake_in_a_definition_is_shown_where_it_is() {
    let desk = Desk::with_dev();
    desk.write("features.toml", &DEFINITIONS.replace("sum(amount)", "sum(amonut)"));
    contains(
        &desk.fails("plan"),
        &["features.toml:10:23", "`amonut`", "did you mean `amount`?"],
    );
    let error = desk.fails_in_json("plan");
    assert_eq!(error["code"], "invalid-definitions");
    let diagnostic = &error["details"]["diagnostics"][0];
    assert_eq!(
        (&diagnostic["line"], &diagnostic["column"]),
        (&Value::from(10), &Value::from(23))
    );

    desk.write(
        "features.toml",
        &DEFINITIONS.replace("sum(amount)", &format!("sum(amount{})", "+ amount".repeat(1_000))),
    );
    contains(&desk.fails("plan"), &["more than 200 operations"]);
    desk.write("features.toml", DEFINITIONS);
    contains(&desk.succeeds("plan"), &["+ view card@1", "models affected: fraud"]);
}

#[test]
fn a_change_is_a_version_and_an_unknown_name_is_met_with_the_nearest() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    desk.write("features.toml", &DEFINITIONS.replace("24h", "12h"));
    contains(
        &desk.succeeds("plan"),
        &["~ view card@2", "over 24h (f64) → sum(amount) over 12h"],
    );
    desk.succeeds("apply");
    contains(
        &desk.succeeds("show card"),
        &["card@2", "(in force)", "over 12h", "card@1", "over 24h"],
    );
    contains(&desk.succeeds("show fraud"), &["input", "card.spend", "vector"]);
    contains(&desk.succeeds("show payments"), &["topic payments", "amount"]);
    contains(&desk.fails("show crad"), &["did you mean `card`?"]);
    assert_eq!(
        desk.fails_in_json("predict fraud card=a amount=1")["code"],
        "nothing-registered"
    );
}

#[test]
fn bad_events_become_dead_letters_that_can_be_listed() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let good = r#"{"card":"a","amount":1,"ts":"2026-01-01T00:00:00Z"}"#;
    desk.write(
        "events.jsonl",
        &format!("{good}\n{{\"card\":\"a\",\"amount\":\"x\",\"ts\":\"2026-01-01T00:00:00Z\"}}\n[1]\n"),
    );
    contains(
        &desk.succeeds("push payments events.jsonl"),
        &["3 events", "2 of the source's became dead letters"],
    );
    contains(
        &desk.succeeds("dead-letters list payments"),
        &["wrong-type", "`amount` is \"x\"", "malformed"],
    );
    let letters = desk.succeeds("dead-letters list payments --limit 1 --output json");
    let letters: Vec<Value> = serde_json::from_str(&letters).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "malformed");
    contains(&desk.fails("dead-letters list payment"), &["did you mean `payments`?"]);

    let mut lines = std::fs::File::create(desk.path().join("half.jsonl")).unwrap();
    for _ in 0..1_000 {
        writeln!(lines, "{good}").unwrap();
    }
    writeln!(lines, "{{").unwrap();
    contains(
        &desk.fails("push payments half.jsonl"),
        &["stopped after 1000 events", "line 1001 of `half.jsonl`"],
    );
}

#[test]
fn a_spine_that_does_not_fit_is_refused_before_anything_is_written() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let check = |text: &str, parts: &[&str]| {
        desk.write("spine.csv", text);
        contains(&desk.fails("training-set fraud --spine spine.csv -o out.csv"), parts);
        assert!(!desk.path().join("out.csv").exists());
    };
    check("", &["spine.csv", "the file is empty"]);
    check(
        "card,amount,time\na,1,2026-01-01T00:00:00\n",
        &["naive timestamp", "add `Z`"],
    );
    check("card,time\na,2026-01-01T00:00:00Z\n", &["`amount` is missing"]);
    check(
        "card,amount,time\na,x,2026-01-01T00:00:00Z\n",
        &["`amount` in row 1: `x` is no f64"],
    );
    check("card,amount\na,1\n", &["--time-column"]);

    desk.write("spine.csv", "card,amount,time,zip\na,1,2026-01-01T00:00:00Z,007\n");
    contains(
        &desk.fails("training-set fraud --spine spine.csv -o spine.csv"),
        &["both spine and output"],
    );
    contains(
        &desk.fails("training-set fraud --spine spine.csv -o none/out.csv"),
        &["there is no folder `none`"],
    );
    contains(
        &desk.fails("training-set fraud --spine . -o out.csv"),
        &["ending must say"],
    );
    desk.succeeds("training-set fraud --spine spine.csv -o out.csv");
    contains(
        &std::fs::read_to_string(desk.path().join("out.csv")).unwrap(),
        &["a,1.0,2026-01-01T00:00:00Z,007,"],
    );
    assert!(desk.path().join("out.csv.manifest.json").exists());
}

#[test]
fn a_training_set_is_made_again_from_its_manifest_byte_by_byte() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let event =
        |second: u32| format!("{{\"card\":\"a\",\"amount\":{second},\"ts\":\"2026-01-01T00:00:{second:02}Z\"}}\n");
    desk.write("events.jsonl", &(10..20).map(event).collect::<String>());
    desk.succeeds("push payments events.jsonl");
    let spine: String = (0..40)
        .map(|row| format!("a,1,2026-01-01T00:00:{:02}Z,{row}\n", row + 5))
        .collect();
    desk.write("spine.csv", &format!("card,amount,time,label\n{spine}"));
    for ending in ["parquet", "csv", "arrow"] {
        desk.succeeds(&format!(
            "training-set fraud --spine spine.csv --as-of event-time -o first.{ending}"
        ));
    }
    // More events that the rows would see, and other definitions under the same names.
    desk.write("more.jsonl", &(20..50).map(event).collect::<String>());
    desk.succeeds("push payments more.jsonl");
    desk.write("features.toml", &DEFINITIONS.replace("over 24h", "over 48h"));
    desk.succeeds("apply");
    let bytes = |name: &str| std::fs::read(desk.path().join(name)).unwrap();
    for ending in ["parquet", "csv", "arrow"] {
        desk.succeeds(&format!(
            "training-set --from-manifest first.{ending}.manifest.json -o second.{ending}"
        ));
        assert!(
            bytes(&format!("first.{ending}")) == bytes(&format!("second.{ending}")),
            "{ending}"
        );
        desk.succeeds(&format!(
            "training-set fraud --spine spine.csv --as-of event-time -o now.{ending}"
        ));
        assert!(
            bytes(&format!("first.{ending}")) != bytes(&format!("now.{ending}")),
            "{ending}"
        );
    }
    let manifest = |name: &str| -> Value { serde_json::from_slice(&bytes(name)).unwrap() };
    let (mut first, mut second) = (
        manifest("first.csv.manifest.json"),
        manifest("second.csv.manifest.json"),
    );
    for manifest in [&mut first, &mut second] {
        manifest.as_object_mut().unwrap().remove("built_at").unwrap();
    }
    assert_eq!(first, second);

    // The spine is looked for where it was, then in the training set itself.
    std::fs::rename(desk.path().join("spine.csv"), desk.path().join("elsewhere.csv")).unwrap();
    for ending in ["parquet", "csv", "arrow"] {
        desk.succeeds(&format!(
            "training-set --from-manifest first.{ending}.manifest.json -o third.{ending}"
        ));
        assert!(
            bytes(&format!("first.{ending}")) == bytes(&format!("third.{ending}")),
            "{ending}"
        );
    }
    std::fs::rename(desk.path().join("first.csv"), desk.path().join("kept.csv")).unwrap();
    std::fs::remove_file(desk.path().join("third.csv")).unwrap();
    contains(
        &desk.fails("training-set --from-manifest first.csv.manifest.json -o third.csv"),
        &[
            "the spine of this training set was not found: name it with --spine",
            "spine.csv",
        ],
    );
    desk.succeeds("training-set --from-manifest first.csv.manifest.json --spine elsewhere.csv -o third.csv");
    assert!(bytes("kept.csv") == bytes("third.csv"));
    desk.write("elsewhere.csv", "card,amount,time,label\na,1,2026-01-01T00:00:05Z,0\n");
    contains(
        &desk.fails("training-set --from-manifest first.csv.manifest.json --spine elsewhere.csv -o fourth.csv"),
        &["the spine is not the one of the manifest"],
    );
    assert!(!desk.path().join("fourth.csv").exists());
    contains(
        &desk.fails("training-set --from-manifest features.toml -o fourth.csv"),
        &["`features.toml` is no manifest of a training set"],
    );
    contains(
        &desk.fails("training-set fraud --from-manifest first.csv.manifest.json -o fourth.csv"),
        &["cannot be used with"],
    );
}

#[test]
fn a_training_set_goes_into_a_bucket_with_its_manifest_last() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let spine: String = (0..30)
        .map(|row| format!("a,1,2026-01-{:02}T00:00:00Z,{row}\n", 1 + row % 2))
        .collect();
    desk.write("spine.csv", &format!("card,amount,time,label\n{spine}"));
    let s3 = format!(
        "[s3]\nendpoint = \"{}\"\nregion = \"{}\"\naccess_key_id = \"{}\"\nsecret_access_key = \"{}\"\nallow_http = true\n",
        s3::endpoint(),
        s3::REGION,
        s3::ACCESS_KEY_ID,
        s3::SECRET_ACCESS_KEY
    );
    desk.write("client.toml", &s3);
    let bucket = s3::bucket();
    let build = |out: &str| format!("training-set fraud --config client.toml --spine spine.csv -o {out}");
    desk.succeeds(&build("here.parquet"));
    let printed = desk.succeeds(&build(&format!("s3://{bucket}/sets/there.parquet")));
    contains(
        &printed,
        &[&format!("manifest: s3://{bucket}/sets/there.parquet.manifest.json")],
    );
    assert_eq!(
        object(&bucket, "sets/there.parquet"),
        std::fs::read(desk.path().join("here.parquet")).unwrap()
    );
    let manifest = object(&bucket, "sets/there.parquet.manifest.json");
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["features"][1]["statistics"]["count"], 30);

    // A folder, which is not replaced.
    let folder = format!(
        "{} --partition-by event_date",
        build(&format!("s3://{bucket}/sets/cut/"))
    );
    desk.succeeds(&folder);
    for name in ["cut/event_date=2026-01-02/part-00000.parquet", "cut.manifest.json"] {
        assert!(!object(&bucket, &format!("sets/{name}")).is_empty(), "{name}");
    }
    contains(&desk.fails(&folder), &["it exists; remove it or name another"]);

    // What can be known before any work is done: no job is submitted.
    let jobs = || {
        desk.succeeds("jobs --kind training-set --output json")
            .matches("\"id\"")
            .count()
    };
    let before = jobs();
    contains(
        &desk.fails(&build("s3://ondol-no-such-bucket/train.parquet")),
        &["s3://ondol-no-such-bucket", "check the bucket's name"],
    );
    contains(
        &desk.fails(&build(&format!("s3://{bucket}"))),
        &["s3://bucket/train.parquet"],
    );
    contains(
        &desk.fails(&build("gs://b/train.parquet")),
        &["use a path, file:///… or s3://bucket/prefix"],
    );
    assert_eq!(jobs(), before);

    // Out of a bucket: the spine, which its manifest remembers, and the manifest.
    put(
        &bucket,
        "labels/spine.csv",
        &std::fs::read(desk.path().join("spine.csv")).unwrap(),
    );
    let spine = format!("s3://{bucket}/labels/spine.csv");
    let training_set = |arguments: &str| format!("training-set --config client.toml {arguments}");
    let first = format!("fraud --spine {spine} -o s3://{bucket}/sets/first.parquet");
    desk.succeeds(&training_set(&first));
    let bytes = object(&bucket, "sets/first.parquet");
    assert_eq!(bytes, std::fs::read(desk.path().join("here.parquet")).unwrap());
    let manifest = format!("s3://{bucket}/sets/first.parquet.manifest.json");
    let told: Value = serde_json::from_slice(&object(&bucket, "sets/first.parquet.manifest.json")).unwrap();
    assert_eq!(told["snapshot"]["spine"]["file"], spine.as_str());
    desk.succeeds(&training_set(&format!("--from-manifest {manifest} -o again.parquet")));
    assert_eq!(bytes, std::fs::read(desk.path().join("again.parquet")).unwrap());
    // Gone from where it was, it is found beside the manifest.
    put(&bucket, "labels/spine.csv", b"card,amount,time,label\n");
    desk.succeeds(&training_set(&format!("--from-manifest {manifest} -o again2.parquet")));
    assert_eq!(bytes, std::fs::read(desk.path().join("again2.parquet")).unwrap());
    for (arguments, told) in [
        (format!("fraud --spine {spine} -o {spine}"), "is both spine and output"),
        (format!("fraud --spine s3://{bucket}/none.csv -o x.csv"), "none.csv"),
        (
            "fraud --spine s3://ondol-no-such-bucket/a.csv -o x.csv".to_owned(),
            "check the bucket's name",
        ),
        (format!("--from-manifest s3://{bucket}/none.json -o x.csv"), "none.json"),
        (
            "fraud --spine gs://b/a.csv -o x.csv".to_owned(),
            "use a path, file:///… or s3://bucket/prefix",
        ),
    ] {
        contains(&desk.fails(&training_set(&arguments)), &[told]);
    }
    desk.write("strange.toml", &s3.replace("allow_http = true", "allow_http = false"));
    let refused = desk.fails(&format!(
        "training-set fraud --config strange.toml --spine {spine} -o x.csv"
    ));
    contains(&refused, &["allow_http"]);

    desk.succeeds(&format!("sql select(1) --config client.toml -o s3://{bucket}/one.csv"));
    assert_eq!(
        object(&bucket, "one.csv").iter().filter(|byte| **byte == b'\n').count(),
        2
    );
}

/// Makes an object.
fn put(bucket: &str, key: &str, bytes: &[u8]) {
    let url = format!("{}/{bucket}/{key}", s3::endpoint());
    let signed = format!(
        "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/s3/aws4_request",
        s3::ACCESS_KEY_ID
    );
    let request = reqwest::Client::new().put(&url).header("authorization", signed);
    let sent = request.body(bytes.to_vec()).send();
    let answer = tokio::runtime::Runtime::new().unwrap().block_on(sent).unwrap();
    assert!(answer.status().is_success(), "{url}: {}", answer.status());
}

/// The bytes of an object.
fn object(bucket: &str, key: &str) -> Vec<u8> {
    let url = format!("{}/{bucket}/{}", s3::endpoint(), key.replace('=', "%3D"));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        // The server looks whether somebody has signed, not what.
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/s3/aws4_request",
            s3::ACCESS_KEY_ID
        );
        let request = reqwest::Client::new().get(&url).header("authorization", signed);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{url}: {}", answer.status());
        answer.bytes().await.unwrap().to_vec()
    })
}

#[test]
fn a_large_training_set_goes_into_a_folder_cut_by_day_and_rows() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let spine: String = (0..30)
        .map(|row| format!("a,1,2026-01-{:02}T00:00:00Z,{row}\n", 1 + row % 2))
        .collect();
    desk.write("spine.csv", &format!("card,amount,time,label\n{spine}"));
    let printed =
        desk.succeeds("training-set fraud --spine spine.csv -o set/ --partition-by event_date --rows-per-file 10");
    contains(&printed, &["30 rows", "manifest: set.manifest.json"]);
    for file in [
        "set/event_date=2026-01-01/part-00000.parquet",
        "set/event_date=2026-01-01/part-00001.parquet",
        "set/event_date=2026-01-02/part-00001.parquet",
        "set.manifest.json",
    ] {
        assert!(desk.path().join(file).exists(), "{file}");
    }
    let jobs: Vec<Value> = serde_json::from_str(&desk.succeeds("jobs --kind training-set --output json")).unwrap();
    let job = jobs[0]["id"].as_str().unwrap();
    desk.succeeds(&format!("training-set --job {job} -o later.csv"));
    let later = std::fs::read_to_string(desk.path().join("later.csv")).unwrap();
    assert_eq!(later.lines().count(), 31);
    contains(
        &desk.fails("training-set --job nope -o none.csv"),
        &["unknown job `nope`"],
    );
    contains(
        &desk.fails("training-set fraud --spine spine.csv -o set --partition-by event_date"),
        &["it exists"],
    );
    contains(
        &desk.fails("training-set fraud --spine spine.csv -o other --partition-by amount"),
        &["can't partition by `amount`"],
    );
    assert!(!desk.path().join("other").exists());
    desk.succeeds("training-set --from-manifest set.manifest.json -o whole.csv");
    let whole = std::fs::read_to_string(desk.path().join("whole.csv")).unwrap();
    assert_eq!(whole.lines().count(), 31);
}

#[test]
fn a_table_that_is_not_where_the_server_looks_is_named_by_its_whole_path() {
    let desk = Desk::with_dev();
    desk.write(
        "features.toml",
        "[source.shops]\nparquet = \"shops.parquet\"\ntime = \"at\"\nschema = { id = \"string\", at = \"timestamp\" }\n\
         [view.shop]\nfrom = \"shops\"\nkey = \"id\"\nfeatures.id2 = \"id\"\n",
    );
    let whole = desk.path().canonicalize().unwrap().join("shops.parquet");
    contains(
        &desk.fails("apply"),
        &["view `shop` does not serve yet", whole.to_str().unwrap()],
    );
}

#[test]
fn a_second_process_on_the_same_data_or_port_is_refused_with_the_reason() {
    let desk = Desk::with_dev();
    let address = desk.server.as_ref().unwrap().1.trim_start_matches("http://").to_owned();
    let text = |output: Output| String::from_utf8(output.stdout).unwrap();
    let taken = text(desk.dev(&address).output().unwrap());
    contains(&taken, &["can't listen on", "choose another address with --listen"]);
    contains(
        &text(desk.dev("127.0.0.1:0").output().unwrap()),
        &["another process has it open"],
    );
    contains(&desk.succeeds("ls"), &["decisions@1"]);
}

#[test]
fn a_dead_letter_is_shown_corrected_and_replayed() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let event = |amount: &str| format!("{{\"card\":\"a\",\"amount\":{amount},\"ts\":\"2026-01-01T00:00:00Z\"}}\n");
    desk.write(
        "events.jsonl",
        &[event("\"x\""), event("\"y\""), "[1]\n".to_owned()].concat(),
    );
    desk.succeeds("push payments events.jsonl");
    let letters = desk.succeeds("dead-letters list payments --reason wrong-type --output json");
    let letters: Vec<Value> = serde_json::from_str(&letters).unwrap();
    let place = |letter: &Value| format!("{}:{}", letter["position"]["partition"], letter["position"]["offset"]);
    let (second, first) = (place(&letters[0]), place(&letters[1]));
    contains(
        &desk.succeeds(&format!("dead-letters show payments {first}")),
        &["wrong-type", "`amount` is \"x\"", "\"card\": \"a\"", "open"],
    );
    contains(
        &desk.fails("dead-letters show payments 0:77"),
        &["no dead letter at 0:77"],
    );
    contains(
        &desk.succeeds(&format!("dead-letters fix payments {first} --set amount=much")),
        &["would still be refused", "wrong-type"],
    );
    contains(
        &desk.fails(&format!("dead-letters replay payments {first}")),
        &["no letter replayed", "wrong-type"],
    );
    contains(
        &desk.succeeds(&format!("dead-letters fix payments {first} --set amount=12.5 --replay")),
        &["corrected and replayed"],
    );
    desk.write("editor.sh", "sed -i 's/\"y\"/7/' \"$1\"");
    let line = format!("dead-letters fix payments {second} --edit");
    let edited = desk
        .ondol()
        .args(line.split(' '))
        .env("VISUAL", "sh editor.sh")
        .output()
        .unwrap();
    contains(&String::from_utf8(edited.stdout).unwrap(), &["would be taken now"]);
    contains(
        &desk.succeeds("dead-letters replay payments --everything --dry-run"),
        &["1 letter would be replayed; 1 not", "malformed"],
    );
    contains(
        &desk.succeeds("dead-letters replay payments --everything"),
        &["1 letter replayed; 1 not"],
    );
    contains(
        &desk.fails(&format!("dead-letters replay payments {second}")),
        &["handled", "it was replayed at"],
    );
    contains(
        &desk.succeeds("dead-letters discard payments --reason malformed --note rubbish"),
        &["1 letter discarded"],
    );
    contains(
        &desk.succeeds("dead-letters list payments"),
        &["no dead letter that waits"],
    );
    contains(
        &desk.succeeds("dead-letters summary payments"),
        &["1 discarded, 2 replayed"],
    );
    contains(&desk.fails("dead-letters replay payments"), &["--everything"]);
    let status = || -> Value {
        let text = desk.succeeds("ingest status payments --output json");
        serde_json::from_str::<Vec<Value>>(&text).unwrap().remove(0)
    };
    for _ in 0..200 {
        if status()["events"] == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(status()["events"], 2, "both corrected events were delivered");
}

#[test]
fn a_stream_is_paused_skipped_and_resumed() {
    let desk = Desk::with_dev();
    desk.write("features.toml", DEFINITIONS);
    desk.succeeds("apply");
    let event = "{\"card\":\"a\",\"amount\":1,\"ts\":\"2026-01-01T00:00:00Z\"}\n";
    desk.write("events.jsonl", &event.repeat(10));
    desk.succeeds("push payments events.jsonl");
    contains(
        &desk.succeeds("ingest status payments"),
        &[
            "payments  (topic payments)  reading",
            "caught up",
            "10 events",
            "partition",
        ],
    );
    desk.succeeds("ingest status --check --max-lag 60");
    contains(
        &desk.fails("ingest status paiments"),
        &["unknown stream source `paiments`"],
    );
    contains(&desk.fails("ingest status --watch"), &["--watch needs a terminal"]);
    contains(
        &desk.succeeds("ingest pause payments --reason moving"),
        &["is paused", "durable", "ondol ingest resume payments"],
    );
    desk.succeeds("push payments events.jsonl --no-wait");
    contains(
        &desk.succeeds("ingest status payments"),
        &["paused since", "moving", "10 events behind"],
    );
    contains(&desk.fails("ingest seek payments --to beginning"), &["ondol rebuild"]);
    contains(
        &desk.fails("ingest seek payments --to nowhere"),
        &["names no place", "offset PARTITION:OFFSET"],
    );
    contains(
        &desk.succeeds("ingest seek payments --to end --dry-run"),
        &["10 events of `payments` would be skipped"],
    );
    contains(
        &desk.fails("ingest seek payments --to end"),
        &["10 events", "add --yes"],
    );
    contains(
        &desk.succeeds("ingest seek payments --to end --reason rehearsal --yes"),
        &["10 events of `payments` are skipped"],
    );
    desk.succeeds("ingest resume payments");
    contains(
        &desk.succeeds("push payments events.jsonl"),
        &["all visible to online reads"],
    );
    contains(
        &desk.succeeds("ingest status payments"),
        &["reading", "caught up", "20 events", "10 skipped"],
    );
    contains(
        &desk.succeeds("dead-letters summary payments"),
        &["skipped on purpose", "rehearsal"],
    );
}
