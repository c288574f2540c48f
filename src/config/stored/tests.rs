use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, Bytes>>);

impl KeyValue for Memory {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, SeamError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn write(&self, key: &str, value: Bytes) -> Result<(), SeamError> {
        self.0.lock().unwrap().insert(key.to_owned(), value);
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<(), SeamError> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

fn config(host: &str) -> Config {
    let json = format!(r#"{{"mcpServers":{{"a":{{"url":"https://{host}/mcp"}}}}}}"#);
    Config::from_normalized(json.as_bytes()).unwrap()
}

async fn push_many(store: &Memory, count: u64) {
    for n in 1..=count {
        let stamp = push(store, &config(&format!("h{n}")), Timestamp(n)).await.unwrap();
        assert_eq!((stamp.version, stamp.at), (n, Timestamp(n)));
    }
}

async fn versions_of(store: &Memory) -> Vec<u64> {
    history(store, 100).await.unwrap().into_iter().map(|stamp| stamp.version).collect()
}

#[tokio::test]
async fn an_empty_store_has_nothing() {
    let store = Memory::default();
    assert_eq!(current(&store).await, Ok(None));
    assert_eq!(history(&store, 10).await, Ok(vec![]));
    assert_eq!(rollback(&store, None, Timestamp(1)).await, Err(StoredError::NothingOlder));
}

#[tokio::test]
async fn what_was_pushed_last_is_in_force() {
    let store = Memory::default();
    push_many(&store, 3).await;
    let (stamp, found) = current(&store).await.unwrap().unwrap();
    assert_eq!((stamp.version, &found), (3, &config("h3")));
    assert_eq!(stamp.digest, found.digest());
    assert_eq!(versions_of(&store).await, [3, 2, 1]);
}

#[tokio::test]
async fn what_is_in_force_is_not_stored_again() {
    let store = Memory::default();
    push_many(&store, 2).await;
    assert_eq!(push(&store, &config("h2"), Timestamp(9)).await.unwrap().version, 2);
    assert_eq!(push(&store, &config("h1"), Timestamp(9)).await.unwrap().version, 3);
}

#[tokio::test]
async fn going_back_takes_a_step_or_a_number() {
    let store = Memory::default();
    push_many(&store, 4).await;
    assert_eq!(rollback(&store, None, Timestamp(5)).await.unwrap().version, 3);
    assert_eq!(rollback(&store, None, Timestamp(6)).await.unwrap().version, 2);
    let (stamp, found) = current(&store).await.unwrap().unwrap();
    assert_eq!((stamp.version, stamp.at, found), (2, Timestamp(6), config("h2")));
    assert_eq!(rollback(&store, Some(4), Timestamp(7)).await.unwrap().version, 4);
    assert_eq!(rollback(&store, Some(9), Timestamp(7)).await, Err(StoredError::Missing(9)));
    rollback(&store, Some(1), Timestamp(8)).await.unwrap();
    assert_eq!(rollback(&store, None, Timestamp(9)).await, Err(StoredError::NothingOlder));
    assert_eq!(push(&store, &config("new"), Timestamp(10)).await.unwrap().version, 5);
}

#[tokio::test]
async fn the_last_twenty_are_kept() {
    let store = Memory::default();
    push_many(&store, 25).await;
    assert_eq!(versions_of(&store).await, (6..=25).rev().collect::<Vec<_>>());
    assert_eq!(load(&store, 5).await, Err(StoredError::Missing(5)));
    assert_eq!(load(&store, 6).await, Ok(config("h6")));
    assert_eq!(store.0.lock().unwrap().len(), KEPT + 2);
}

#[tokio::test]
async fn a_version_that_has_not_arrived_is_not_taken_for_another() {
    let store = Memory::default();
    push_many(&store, 2).await;
    let older = store.read("config/v/1").await.unwrap().unwrap();
    store.write("config/v/2", older).await.unwrap();
    assert_eq!(current(&store).await, Err(StoredError::NotYet(2)));
    store.remove("config/v/2").await.unwrap();
    assert_eq!(current(&store).await, Err(StoredError::NotYet(2)));
}

#[tokio::test]
async fn damage_is_named_and_mended_by_pushing() {
    let store = Memory::default();
    push_many(&store, 2).await;
    store.write("config/history", Bytes::from_static(b"{")).await.unwrap();
    assert_eq!(history(&store, 1).await, Err(StoredError::Damaged("config/history".to_owned())));
    assert_eq!(push(&store, &config("h3"), Timestamp(3)).await.unwrap().version, 3);
    assert_eq!(versions_of(&store).await, [3]);
}
