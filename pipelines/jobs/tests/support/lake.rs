//! Folders of tables as they stand in a bucket.

use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use ondol_runtime::ObjectStores;
use ondol_testkit::s3;
use std::path::{Path, PathBuf};

/// This process's S3 is the tests'. To be called before the first place is opened: a process has one configuration.
pub fn reach_s3() {
    ondol_runtime::objects::configure(&s3::config()).unwrap();
}

/// Copies every file below `folder` to a new bucket; its URL.
pub async fn upload(folder: &Path) -> String {
    reach_s3();
    let root = format!("s3://{}/lake", s3::bucket());
    let store = ObjectStores::of_process().at(&root).unwrap().store();
    for file in files(folder) {
        let name = file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&file).unwrap();
        store
            .put(&ObjectPath::parse(name).unwrap(), bytes.into())
            .await
            .unwrap();
    }
    root
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}
