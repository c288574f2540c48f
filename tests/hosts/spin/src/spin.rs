//! What Spin gives to a component beyond WASI: key-value stores and databases over SQLite, variables, and requests that
//! go out to hosts that the manifest names.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use wasmtime::component::{
    Accessor, Component, FutureReader, HasData, Linker, Resource, ResourceTable, StreamReader,
};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::{TrappableError, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::WasiHttpCtx;
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::{
    RequestOptions, WasiHttpCtxView, WasiHttpHooks, WasiHttpView, default_send_request,
};

use crate::manifest::{Allowed, Manifest};
use crate::outbound::Connections;

mod generated {
    wasmtime::component::bindgen!({ path: "wit", world: "causeway:spin-host/host" });
}
use generated::spin::key_value::key_value;
use generated::spin::sqlite::sqlite;
use generated::spin::variables::variables;

/// Everything that instances share.
pub struct Host {
    engine: Engine,
    pre: ServicePre<Guest>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Instances share what is connected, as they do in Spin.
    connections: Connections,
    /// Spin shares one connection to a database among all instances, too.
    database: Mutex<Connection>,
    values: Mutex<Connection>,
    variables: HashMap<String, String>,
    outbound: Vec<Allowed>,
    key_value_stores: Vec<String>,
    sqlite_databases: Vec<String>,
}

/// What belongs to one instance.
pub struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    shared: Arc<Shared>,
}

struct Hooks(Arc<Shared>);

impl Host {
    /// The host of what `manifest` says, with its state in the folder `state`.
    ///
    /// # Errors
    /// When the component cannot be loaded or the state not be opened.
    pub fn new(manifest: &Manifest, state: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(state)?;
        let mut config = Config::new();
        config.wasm_component_model_async(true);
        // Compiling takes seconds, and a suite starts hundreds of hosts.
        let mut cache = wasmtime::CacheConfig::new();
        cache.with_directory(std::env::temp_dir().join("causeway-spin-host"));
        config.cache(Some(wasmtime::Cache::new(cache)?));
        let engine = Engine::new(&config)?;
        let component = Component::from_file(&engine, &manifest.source)?;
        let mut linker = Linker::<Guest>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        key_value::add_to_linker::<_, Own>(&mut linker, |guest| guest)?;
        sqlite::add_to_linker::<_, Own>(&mut linker, |guest| guest)?;
        variables::add_to_linker::<_, Own>(&mut linker, |guest| guest)?;
        let pre = ServicePre::new(linker.instantiate_pre(&component)?)?;
        let open = |name: &str| -> rusqlite::Result<Connection> {
            let connection = Connection::open(state.join(name))?;
            connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
            Ok(connection)
        };
        let values = open("sqlite_key_value.db")?;
        values.execute_batch(
            "CREATE TABLE IF NOT EXISTS spin_key_value (store TEXT, key TEXT, value BLOB, PRIMARY KEY (store, key))",
        )?;
        let shared = Shared {
            connections: Connections::default(),
            database: Mutex::new(open("sqlite_db.db")?),
            values: Mutex::new(values),
            variables: manifest.variables.clone(),
            outbound: manifest.outbound.clone(),
            key_value_stores: manifest.key_value_stores.clone(),
            sqlite_databases: manifest.sqlite_databases.clone(),
        };
        Ok(Self { engine, pre, shared: Arc::new(shared) })
    }

    /// What a new instance is made from.
    pub fn pre(&self) -> &ServicePre<Guest> {
        &self.pre
    }

    /// A new instance's own part.
    pub fn store(&self) -> Store<Guest> {
        let mut wasi = WasiCtxBuilder::new();
        // One stream for what the component and the host have to say.
        wasi.stdout(std::io::stderr()).stderr(std::io::stderr());
        let guest = Guest {
            table: ResourceTable::new(),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: Hooks(self.shared.clone()),
            shared: self.shared.clone(),
        };
        Store::new(&self.engine, guest)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

type Answered = (
    http::Response<UnsyncBoxBody<Bytes, ErrorCode>>,
    Box<dyn Future<Output = Result<(), ErrorCode>> + Send>,
);

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<UnsyncBoxBody<Bytes, ErrorCode>>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), ErrorCode>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answered, TrappableError<ErrorCode>>> + Send> {
        let uri = request.uri();
        let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or_default());
        let allowed = self.0.outbound.iter().any(|entry| entry.admits(scheme, host, uri.port_u16()));
        let plain = (scheme == "http").then(|| self.0.connections.clone());
        Box::new(async move {
            if !allowed {
                return Err(ErrorCode::HttpRequestDenied.into());
            }
            if let Some(connections) = plain {
                let response = connections.send(request, options).await?;
                return Ok((response, Box::new(std::future::ready(Ok(()))) as Box<_>));
            }
            let (response, io) = default_send_request(request, options).await?;
            Ok((response.map(|body| body.boxed_unsync()), Box::new(io) as Box<_>))
        })
    }
}

/// Spin's interfaces.
struct Own;

impl HasData for Own {
    type Data<'a> = &'a mut Guest;
}

fn shared<T>(accessor: &Accessor<T, Own>) -> Arc<Shared> {
    accessor.with(|mut access| access.get().shared.clone())
}

impl variables::Host for Guest {}

impl<T: Send> variables::HostWithStore<T> for Own {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> Result<String, variables::Error> {
        let value = shared(accessor).variables.get(&name).cloned();
        value.ok_or_else(|| variables::Error::Undefined(format!("no variable {name:?}")))
    }
}

impl key_value::Host for Guest {}

impl key_value::HostStore for Guest {
    fn drop(&mut self, _: Resource<key_value::Store>) -> wasmtime::Result<()> {
        Ok(())
    }
}

fn other(error: rusqlite::Error) -> key_value::Error {
    key_value::Error::Other(error.to_string())
}

impl<T: Send> key_value::HostStoreWithStore<T> for Own {
    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> Result<Resource<key_value::Store>, key_value::Error> {
        if shared(accessor).key_value_stores.contains(&label) {
            Ok(Resource::new_own(0))
        } else {
            Err(key_value::Error::AccessDenied)
        }
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        _: Resource<key_value::Store>,
        key: String,
    ) -> Result<Option<Vec<u8>>, key_value::Error> {
        let shared = shared(accessor);
        let read = "SELECT value FROM spin_key_value WHERE store = 'default' AND key = ?";
        lock(&shared.values).query_row(read, [key], |row| row.get(0)).optional().map_err(other)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        _: Resource<key_value::Store>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), key_value::Error> {
        let shared = shared(accessor);
        let write = "INSERT OR REPLACE INTO spin_key_value (store, key, value) VALUES ('default', ?, ?)";
        lock(&shared.values).execute(write, (key, value)).map(drop).map_err(other)
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        _: Resource<key_value::Store>,
        key: String,
    ) -> Result<(), key_value::Error> {
        let shared = shared(accessor);
        let remove = "DELETE FROM spin_key_value WHERE store = 'default' AND key = ?";
        lock(&shared.values).execute(remove, [key]).map(drop).map_err(other)
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        store: Resource<key_value::Store>,
        key: String,
    ) -> Result<bool, key_value::Error> {
        Ok(Self::get(accessor, store, key).await?.is_some())
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        _: Resource<key_value::Store>,
    ) -> (StreamReader<String>, FutureReader<Result<(), key_value::Error>>) {
        accessor.with(|mut access| {
            let end = Err(key_value::Error::Other("not in this host".to_owned()));
            let keys = StreamReader::new(&mut access, Vec::new()).expect("a stream can be made");
            let end = FutureReader::new(&mut access, async { Ok::<_, wasmtime::Error>(end) });
            (keys, end.expect("a future can be made"))
        })
    }
}

impl sqlite::Host for Guest {}

impl Shared {
    fn open(&self, database: &str) -> Result<Resource<sqlite::Connection>, sqlite::Error> {
        if self.sqlite_databases.iter().any(|known| known == database) {
            Ok(Resource::new_own(0))
        } else {
            Err(sqlite::Error::AccessDenied)
        }
    }

    fn execute(
        &self,
        statement: &str,
        parameters: Vec<sqlite::Value>,
    ) -> Result<(Vec<String>, Vec<sqlite::RowResult>), sqlite::Error> {
        let io = |error: rusqlite::Error| sqlite::Error::Io(error.to_string());
        let database = lock(&self.database);
        let mut statement = database.prepare_cached(statement).map_err(io)?;
        let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let parameters = parameters.into_iter().map(|value| match value {
            sqlite::Value::Integer(value) => Sql::Integer(value),
            sqlite::Value::Real(value) => Sql::Real(value),
            sqlite::Value::Text(value) => Sql::Text(value),
            sqlite::Value::Blob(value) => Sql::Blob(value),
            sqlite::Value::Null => Sql::Null,
        });
        let mut rows = statement.query(params_from_iter(parameters)).map_err(io)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(io)? {
            let value = |index| {
                Ok(match row.get_ref(index)? {
                    ValueRef::Null => sqlite::Value::Null,
                    ValueRef::Integer(value) => sqlite::Value::Integer(value),
                    ValueRef::Real(value) => sqlite::Value::Real(value),
                    ValueRef::Text(value) => sqlite::Value::Text(String::from_utf8_lossy(value).into_owned()),
                    ValueRef::Blob(value) => sqlite::Value::Blob(value.to_vec()),
                })
            };
            let values = (0..columns.len()).map(value).collect::<rusqlite::Result<_>>().map_err(io)?;
            found.push(sqlite::RowResult { values });
        }
        Ok((columns, found))
    }
}

impl sqlite::HostConnection for Guest {
    fn open(&mut self, database: String) -> Result<Resource<sqlite::Connection>, sqlite::Error> {
        self.shared.open(&database)
    }

    fn execute(
        &mut self,
        _: Resource<sqlite::Connection>,
        statement: String,
        parameters: Vec<sqlite::Value>,
    ) -> Result<sqlite::QueryResult, sqlite::Error> {
        let (columns, rows) = self.shared.execute(&statement, parameters)?;
        Ok(sqlite::QueryResult { columns, rows })
    }

    fn last_insert_rowid(&mut self, _: Resource<sqlite::Connection>) -> i64 {
        lock(&self.shared.database).last_insert_rowid()
    }

    fn changes(&mut self, _: Resource<sqlite::Connection>) -> u64 {
        lock(&self.shared.database).changes()
    }

    fn drop(&mut self, _: Resource<sqlite::Connection>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl<T: Send> sqlite::HostConnectionWithStore<T> for Own {
    async fn open_async(
        accessor: &Accessor<T, Self>,
        database: String,
    ) -> Result<Resource<sqlite::Connection>, sqlite::Error> {
        shared(accessor).open(&database)
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        _: Resource<sqlite::Connection>,
        statement: String,
        parameters: Vec<sqlite::Value>,
    ) -> Result<
        (Vec<String>, StreamReader<sqlite::RowResult>, FutureReader<Result<(), sqlite::Error>>),
        sqlite::Error,
    > {
        let (columns, rows) = shared(accessor).execute(&statement, parameters)?;
        let io = |error: wasmtime::Error| sqlite::Error::Io(error.to_string());
        accessor.with(|mut access| {
            let rows = StreamReader::new(&mut access, rows).map_err(io)?;
            let end = FutureReader::new(&mut access, async { Ok::<_, wasmtime::Error>(Ok(())) }).map_err(io)?;
            Ok((columns, rows, end))
        })
    }

    async fn last_insert_rowid_async(accessor: &Accessor<T, Self>, _: Resource<sqlite::Connection>) -> i64 {
        lock(&shared(accessor).database).last_insert_rowid()
    }

    async fn changes_async(accessor: &Accessor<T, Self>, _: Resource<sqlite::Connection>) -> u64 {
        lock(&shared(accessor).database).changes()
    }
}
