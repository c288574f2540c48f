//! Watches files by looking at them: whatever an editor, a mount or a symbolic link does, a look sees the result.
//!
//! A look is one `stat` a file. Notifications of the system would come a little sooner, but they differ on every
//! system, get lost on network and container mounts, and follow the file that an editor has just replaced.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often files are looked at.
pub const EVERY: Duration = Duration::from_millis(500);
/// A file changed this recently is compared by content: its time stamp may be too coarse to tell two writes apart.
const RECENT: Duration = Duration::from_secs(3);

/// Files, and what they were like when last looked at.
#[derive(Debug)]
pub struct Watch {
    files: Vec<(PathBuf, Sight)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sight {
    stamp: Option<(SystemTime, u64)>,
    content: Option<u64>,
}

impl Watch {
    /// Watches `files`, which need not exist, from what they are like now.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let looked = |file: PathBuf| {
            let sight = look(&file, Sight::default());
            (file, sight)
        };
        Self { files: files.into_iter().map(looked).collect() }
    }

    /// Whether the content of any file differs from what it was at the last call. Blocks for the disk.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for (file, seen) in &mut self.files {
            let now = look(file, *seen);
            changed |= now.content != seen.content;
            *seen = now;
        }
        changed
    }

    /// Resolves when a file has changed and then kept still, so that a half-written one is not taken for new.
    pub async fn change(mut self) -> Self {
        let mut restless = false;
        loop {
            tokio::time::sleep(if restless { EVERY / 5 } else { EVERY }).await;
            let looked = tokio::task::spawn_blocking(move || {
                let changed = self.changed();
                (self, changed)
            });
            let changed;
            (self, changed) = match looked.await {
                Ok(looked) => looked,
                // Only when the runtime is going down.
                Err(_) => std::future::pending().await,
            };
            if restless && !changed {
                return self;
            }
            restless |= changed;
        }
    }
}

fn look(file: &Path, seen: Sight) -> Sight {
    let Ok(metadata) = std::fs::metadata(file) else { return Sight::default() };
    let stamp = metadata.modified().ok().map(|time| (time, metadata.len()));
    let settled = stamp.is_some_and(|(time, _)| time.elapsed().is_ok_and(|age| age > RECENT));
    if settled && stamp == seen.stamp {
        return seen;
    }
    let content = std::fs::read(file).ok().map(|bytes| {
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        hasher.finish()
    });
    Sight { stamp, content }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(act: impl FnOnce(&Path), expect: bool) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::new([file.clone()]);
        act(&file);
        assert_eq!(watch.changed(), expect);
        assert!(!watch.changed(), "one change is reported once");
    }

    #[test]
    fn change_is_seen_however_it_is_made() {
        check(|_| {}, false);
        check(|file| std::fs::write(file, "b").unwrap(), true);
        check(|file| std::fs::write(file, "a").unwrap(), false);
        check(|file| std::fs::remove_file(file).unwrap(), true);
        let replace = |file: &Path| {
            let new = file.with_extension("new");
            std::fs::write(&new, "b").unwrap();
            std::fs::rename(new, file).unwrap();
        };
        check(replace, true);
    }

    #[test]
    fn file_may_come_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        let mut watch = Watch::new([file.clone()]);
        assert!(!watch.changed());
        std::fs::write(&file, "a").unwrap();
        assert!(watch.changed());
    }

    #[tokio::test]
    async fn change_resolves_within_two_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.yaml");
        std::fs::write(&file, "a").unwrap();
        let watch = Watch::new([file.clone()]);
        std::fs::write(&file, "b").unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(2), watch.change()).await.is_ok());
    }
}
