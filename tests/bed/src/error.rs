//! What can go wrong in the bed, each with what to do about it.

use std::path::{Path, PathBuf};

/// An error of the bed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the bed runs ended with an error.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, or why it could not be started.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Something the bed needs is not there; the text says how to get it.
    #[error("this machine lacks something the bed needs:\n{0}")]
    Missing(String),
    /// Something did not happen in time.
    #[error("waited {seconds} s for {what}; last seen: {last}\n  look at {hint}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The last answer.
        last: String,
        /// Where to look.
        hint: String,
    },
    /// The request doesn't fit the state of the bed.
    #[error("{0}")]
    State(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A JSON document could not be read or written.
    #[error("JSON of {what}: {source}")]
    Json {
        /// Which document.
        what: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// Result of the bed.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the file in an IO error.
pub trait At<T> {
    /// Says which file the error is about.
    ///
    /// # Errors
    /// The same error, with the path.
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.to_owned(), source })
    }
}
