//! As much of a Spin manifest as the gateway needs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use toml::{Table, Value};

/// What the manifest says, with variables filled in.
#[derive(Debug)]
pub struct Manifest {
    /// The component.
    pub source: PathBuf,
    /// Its variables.
    pub variables: HashMap<String, String>,
    /// Hosts that it may reach.
    pub outbound: Vec<Allowed>,
    /// Its key-value stores.
    pub key_value_stores: Vec<String>,
    /// Its databases.
    pub sqlite_databases: Vec<String>,
}

impl Manifest {
    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// When it is not one that this host can serve.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let manifest: Table = text.parse().with_context(|| format!("{}", path.display()))?;
        ensure!(manifest.get("spin_manifest_version") == Some(&Value::Integer(2)), "a manifest of version 2");
        let route = manifest.get("trigger").and_then(|t| t.get("http")).and_then(Value::as_array);
        let Some([trigger]) = route.map(Vec::as_slice) else { bail!("one HTTP trigger is expected") };
        ensure!(trigger.get("route").and_then(Value::as_str) == Some("/..."), "a trigger for all routes");
        let name = trigger.get("component").and_then(Value::as_str).context("trigger.http.component")?;
        let component = manifest.get("component").and_then(|all| all.get(name)).context("the component")?;
        let given = application(manifest.get("variables").and_then(Value::as_table))?;
        let texts = |key: &str| -> anyhow::Result<Vec<String>> {
            let list = component.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().map(|text| Ok(text.as_str().context("a text")?.to_owned())).collect()
        };
        let mut variables = HashMap::new();
        for (name, value) in component.get("variables").and_then(Value::as_table).into_iter().flatten() {
            let value = value.as_str().with_context(|| format!("variables.{name}: a text"))?;
            variables.insert(name.clone(), fill(value, &given)?);
        }
        let mut outbound = Vec::new();
        for host in texts("allowed_outbound_hosts")? {
            outbound.push(Allowed::read(&fill(&host, &given)?)?);
        }
        let source = component.get("source").and_then(Value::as_str).context("source")?;
        Ok(Self {
            source: path.parent().unwrap_or(Path::new(".")).join(source),
            variables,
            outbound,
            key_value_stores: texts("key_value_stores")?,
            sqlite_databases: texts("sqlite_databases")?,
        })
    }
}

/// The variables of the application: from the environment, or their defaults.
fn application(declared: Option<&Table>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut given = BTreeMap::new();
    for (name, variable) in declared.into_iter().flatten() {
        ensure!(
            name.split('_').all(|word| word.starts_with(|c: char| c.is_ascii_lowercase())),
            "variables.{name}: words of lower-case letters and digits, each of which begins with a letter"
        );
        let required = variable.get("required").and_then(Value::as_bool).unwrap_or_default();
        let default = variable.get("default").and_then(Value::as_str);
        ensure!(required != default.is_some(), "variables.{name}: either required or with a default");
        let own = std::env::var(format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase())).ok();
        let value = own.or(default.map(str::to_owned));
        given.insert(name.clone(), value.with_context(|| format!("the variable {name} is required"))?);
    }
    Ok(given)
}

/// `text` with each `{{ name }}` filled in.
fn fill(text: &str, given: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once("{{") {
        let (name, after) = from.split_once("}}").context("a {{ without its }}")?;
        filled.push_str(before);
        filled.push_str(given.get(name.trim()).with_context(|| format!("there is no variable {name}"))?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// One entry of `allowed_outbound_hosts`.
#[derive(Debug, Clone)]
pub struct Allowed {
    scheme: String,
    host: String,
    port: Option<String>,
}

impl Allowed {
    fn read(text: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = text.split_once("://").with_context(|| format!("{text:?} has no scheme"))?;
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (rest, None),
        };
        ensure!(!host.is_empty() && !host.contains('/'), "{text:?} is no host");
        Ok(Self { scheme: scheme.to_owned(), host: host.to_owned(), port })
    }

    /// Whether a component may reach this host.
    #[must_use]
    pub fn admits(&self, scheme: &str, host: &str, port: Option<u16>) -> bool {
        let scheme_fits = self.scheme == "*" || self.scheme == scheme;
        let host_fits = match self.host.strip_prefix("*.") {
            Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
            None => self.host == "*" || self.host == host,
        };
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = port.unwrap_or(usual);
        let port_fits = match self.port.as_deref() {
            None => port == usual,
            Some("*") => true,
            Some(own) => match own.split_once("..") {
                Some((from, to)) => {
                    from.parse().is_ok_and(|from: u16| port >= from) && to.parse().is_ok_and(|to: u16| port < to)
                }
                None => own.parse() == Ok(port),
            },
        };
        scheme_fits && host_fits && port_fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_admitted_as_spin_admits_them() {
        let check = |entry: &str, scheme: &str, host: &str, port: Option<u16>| {
            Allowed::read(entry).unwrap().admits(scheme, host, port)
        };
        assert!(check("https://*:*", "https", "a.example", Some(8443)));
        assert!(!check("https://*:*", "http", "a.example", None));
        assert!(check("https://a.example", "https", "a.example", None));
        assert!(!check("https://a.example", "https", "a.example", Some(8443)));
        assert!(check("https://*.example", "https", "a.example", None));
        assert!(!check("https://*.example", "https", "example", None));
        assert!(check("*://127.0.0.1:3000..4000", "http", "127.0.0.1", Some(3999)));
        assert!(!check("*://127.0.0.1:3000..4000", "http", "127.0.0.1", Some(4000)));
    }
}
