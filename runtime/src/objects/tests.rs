use super::*;

fn at(place: &str) -> Location {
    ObjectStores::default().at(place).unwrap()
}

#[test]
fn a_path_and_its_url_are_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b").display().to_string();
    let by_path = at(&path);
    let by_url = at(by_path.url().as_str());
    assert_eq!(by_path.path(), by_url.path());
    assert_eq!(by_path.local_path().unwrap(), folder.path().join("a b"));
    assert_eq!(by_path.folder_url().as_str(), format!("{}/", by_path.url()));
}

#[test]
fn a_bucket_is_opened_once_and_its_prefix_is_the_path() {
    let stores = ObjectStores::default();
    let [first, second] = ["s3://lake/a/b/", "s3a://lake/c"].map(|place| stores.at(place).unwrap());
    assert!(Arc::ptr_eq(&first.root(), &second.root()));
    assert_eq!(first.path().as_ref(), "a/b");
    assert_eq!(second.url().as_str(), "s3://lake/c");
    let table = first.join("clicks").unwrap();
    assert_eq!(table.url().as_str(), "s3://lake/a/b/clicks");
    assert_eq!(table.path().as_ref(), "a/b/clicks");
    assert_eq!(table.local_path(), None);
}

#[test]
fn a_place_that_is_none_is_refused_with_what_would_be() {
    for (place, expected) in [
        ("s3:///prefix", "names no bucket"),
        ("gs://lake/a", "gs:// are not supported"),
        ("file://host/a", "no file URL"),
    ] {
        let error = ObjectStores::default().at(place).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(place), "{error}");
    }
}

#[tokio::test]
async fn a_folder_that_can_be_written_to_passes_and_one_below_a_file_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let place = at(&folder.path().join("offline").display().to_string());
    let created = place.created().unwrap();
    created.check_writable().await.unwrap();
    created.check_writable().await.unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let below = at(&folder.path().join("file/offline").display().to_string());
    let error = below.clone().created().unwrap_err().to_string();
    assert!(error.contains("can't be created"), "{error}");
    let error = below.check_writable().await.unwrap_err().to_string();
    assert!(error.contains("check the path"), "{error}");
}

#[test]
fn what_a_store_says_tells_the_cause() {
    let generic = |text: &str| Error::Generic {
        store: "S3",
        source: text.to_owned().into(),
    };
    for (text, cause) in [
        (
            "404 Not Found: <Error><Code>NoSuchBucket</Code></Error>",
            Cause::Missing,
        ),
        (
            "403 Forbidden: <Error><Code>AccessDenied</Code></Error>",
            Cause::Forbidden,
        ),
        ("Unable to open file: Permission denied (os error 13)", Cause::Forbidden),
        ("No space left on device (os error 28)", Cause::Full),
        ("Connection refused (os error 111)", Cause::Other),
    ] {
        assert_eq!(Cause::of(&generic(text)), cause, "{text}");
    }
    let full = at("/somewhere").explain(
        "writing",
        &generic("No space left on device (os error 28): free space on its disk"),
    );
    assert_eq!(full.to_string().matches("free space").count(), 1, "{full}");
}
