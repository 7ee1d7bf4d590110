//! Finds the ONNX Runtime library: `ORT_DYLIB_PATH`, the configured path, the managed folders, the Python environment.
//!
//! Nothing is linked at build time: the library that the PyPI wheel `onnxruntime` carries serves, so that training and
//! serving can share one.

use crate::runtime::RuntimeError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The variable by which users of ONNX Runtime from Rust name the library.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Where to look for the library, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LibrarySearch {
    /// A file, or a folder that holds it, that the user named. If set, nothing else is tried.
    pub named: Option<PathBuf>,
    /// Folders that may hold it: the gateway's own, and the one beside the program, which the set-up script fills.
    pub managed: Vec<PathBuf>,
    /// The Python interpreter whose packages are searched.
    pub python: PathBuf,
}

impl LibrarySearch {
    /// The library's path.
    pub fn find(&self) -> Result<PathBuf, RuntimeError> {
        if let Some(named) = &self.named {
            return library_at(named).ok_or_else(|| {
                RuntimeError::Library(format!(
                    "no ONNX Runtime library at `{}` ({VARIABLE} or `onnxruntime` of the configuration): name the file \
                     libonnxruntime.so.*, or unset it to search the Python environment",
                    named.display()
                ))
            });
        }
        self.managed
            .iter()
            .find_map(|folder| library_at(folder))
            .or_else(|| library_of_python(&self.python))
            .ok_or_else(|| {
                RuntimeError::Library(format!(
                    "ONNX Runtime was not found in {} nor in the Python environment of `{}`: run `scripts/start`, or \
                 `{} -m pip install onnxruntime`, or set {VARIABLE} to libonnxruntime.so.*",
                    self.folders(),
                    self.python.display(),
                    self.python.display(),
                ))
            })
    }

    fn folders(&self) -> String {
        let folders: Vec<String> = self
            .managed
            .iter()
            .map(|folder| format!("`{}`", folder.display()))
            .collect();
        folders.join(", ")
    }
}

/// The folder beside the running program where its ONNX Runtime may stand.
pub fn beside_the_program() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.join("onnxruntime"))
}

/// `path` itself if it is a file, else the newest library in the folder.
fn library_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(path)
        .ok()?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_library))
        .collect();
    found.sort();
    found.pop()
}

fn is_library(name: &str) -> bool {
    (name.starts_with("libonnxruntime.so") || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib")))
        && !name.contains("providers")
}

/// The library of the `onnxruntime` package of an interpreter. The package is located, not imported: importing takes
/// about a second, locating 20 ms.
fn library_of_python(python: &Path) -> Option<PathBuf> {
    const LOCATE: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
                          print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new(python)
        .args(["-c", LOCATE])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let package = String::from_utf8(output.stdout).ok()?;
    match package.trim() {
        "" => None,
        package => library_at(&Path::new(package).join("capi")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_of_the_managed_folder_is_taken_and_providers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.22.0",
            "libonnxruntime.so.1.23.1",
            "libonnxruntime_providers_shared.so",
            "x.txt",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let search = LibrarySearch {
            named: None,
            managed: vec![PathBuf::from("/none"), folder.path().to_owned()],
            python: PathBuf::from("/nonexistent"),
        };
        assert_eq!(search.find(), Ok(folder.path().join("libonnxruntime.so.1.23.1")));
    }

    #[test]
    fn a_missing_library_is_told_with_the_remedy() {
        let search = LibrarySearch {
            named: None,
            managed: vec![PathBuf::from("/none")],
            python: PathBuf::from("/nonexistent/python3"),
        };
        let error = search.find().unwrap_err().to_string();
        assert!(
            error.contains("pip install onnxruntime") && error.contains("scripts/start"),
            "{error}"
        );
    }

    #[test]
    fn a_named_library_that_is_missing_is_not_replaced_by_another() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libonnxruntime.so.1.23.1"), "").unwrap();
        let search = LibrarySearch {
            named: Some(PathBuf::from("/none/libonnxruntime.so")),
            managed: vec![PathBuf::from("/none"), folder.path().to_owned()],
            python: PathBuf::from("/nonexistent"),
        };
        assert!(
            search
                .find()
                .unwrap_err()
                .to_string()
                .contains("/none/libonnxruntime.so")
        );
    }
}
