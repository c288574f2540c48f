//! Normalized JSON: the one form in which a configuration is stored and carried to the edge.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::keys::hex;
use super::node::{Node, too_large};
use super::problem::{Place, Problem};
use super::read::read;
use super::types::Config;

impl Config {
    /// The configuration as canonical JSON: one line, keys in a fixed order, servers in the order of the file,
    /// other clients' spellings made ours. Variables are **not** filled in, so it holds no secret that the file
    /// does not hold.
    #[must_use]
    pub fn normalized(&self) -> String {
        // Texts, numbers and maps with text keys only: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`normalized`](Self::normalized) wrote; any JSON configuration will do. Warnings are dropped.
    ///
    /// ```
    /// use causeway::config::Config;
    /// let config = Config::from_normalized(br#"{"mcpServers":{"a":{"url":"https://a.example/mcp"}}}"#).unwrap();
    /// assert_eq!(Config::from_normalized(config.normalized().as_bytes()), Ok(config));
    /// ```
    pub fn from_normalized(bytes: &[u8]) -> Result<Self, Vec<Problem>> {
        too_large(bytes.len()).map_err(|problem| vec![problem])?;
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            let narrow = |count| u32::try_from(count).unwrap_or(u32::MAX);
            let place = Place { line: narrow(error.line()), column: narrow(error.column()) };
            let fix = "send the JSON that `causeway validate` accepts";
            vec![Problem::error("", "not well-formed JSON", fix).at(place)]
        })?;
        let reading = read(&Node::from(value));
        reading.config.ok_or_else(|| reading.problems.into_iter().filter(Problem::is_error).collect())
    }

    /// The names of the host's variables that it may want filled in.
    #[must_use]
    pub fn variables(&self) -> Vec<String> {
        super::fill::names(&self.normalized())
    }

    /// Identifies the configuration: the first 16 hex digits of the SHA-256 of its normalized JSON.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(self.normalized().as_bytes())
    }
}

/// The digest of normalized JSON.
pub(super) fn digest(normalized: &[u8]) -> String {
    let digest = Sha256::digest(normalized);
    hex(digest.get(..8).unwrap_or_default())
}
