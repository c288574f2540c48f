//! Whatever ends, and however: nothing stays behind.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use causeway::config::plan::Sandbox;
use causeway_native::sandbox::{Spec, kill, terminate};

use super::{keeper, off, run, spec, started, until};

/// A word that no other process has.
fn mark(name: &str) -> String {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{}-{time}", std::process::id())
}

/// Processes with `mark` on their command line, which are all that a spec of that name starts.
#[cfg(target_os = "linux")]
fn marked(mark: &str) -> Vec<u32> {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids =
        pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != own);
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark)
    })
    .collect()
}

#[cfg(not(target_os = "linux"))]
fn marked(mark: &str) -> Vec<u32> {
    let output = Command::new("pgrep").args(["-f", mark]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse().ok()).collect()
}

/// A server that waits, with processes that have left its session and its parents.
fn waiting(mark: &str, sandbox: Sandbox) -> Spec {
    Spec { name: mark.to_owned(), ..spec(sandbox, &["wait", mark]) }
}

fn ready(child: &mut Child) -> BufReader<std::process::ChildStdout> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    out
}

/// The keeper's signals that end a process have the same numbers everywhere.
fn end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn kinds() -> Vec<(&'static str, Sandbox)> {
    vec![
        ("sandboxed", Sandbox::default()),
        ("shared", Sandbox { namespace: false, ..Sandbox::default() }),
        ("off", off()),
    ]
}

/// Starts a server, waits until what it left is there, does something to it, and looks at what is there then.
#[cfg(target_os = "linux")]
fn check(kind: &str, sandbox: Sandbox, clean: bool, act: impl FnOnce(&mut Child)) {
    let mark = mark(if clean { "clean" } else { kind });
    let mut child = started(&waiting(&mark, sandbox));
    let out = ready(&mut child);
    // The keeper, the guard, the server, and the one that has left.
    until("all are there", || marked(&mark).len() == 4);
    act(&mut child);
    until("none is left", || marked(&mark).is_empty());
    drop(out);
    child.wait().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_when_the_input_ends() {
    for (kind, sandbox) in kinds() {
        for clean in [false, true] {
            check(kind, sandbox.clone(), clean, |child| drop(child.stdin.take()));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_when_it_is_told_to_end() {
    for (kind, sandbox) in kinds() {
        check(kind, sandbox.clone(), true, |child| {
            // Waiting would close it, and that is another way to end.
            let _input = child.stdin.take();
            terminate(child.id());
            assert_eq!(child.wait().unwrap().signal(), Some(15));
        });
        check(kind, sandbox, true, |child| {
            let _input = child.stdin.take();
            kill(child.id());
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_when_the_keeper_is_killed() {
    for (kind, sandbox) in kinds() {
        check(kind, sandbox, false, |child| end(child.id()));
    }
    if !super::lacks_namespaces() {
        check("sandboxed", Sandbox::default(), true, |child| end(child.id()));
    }
}

/// The process of that part in the life of the server with `mark`.
#[cfg(target_os = "linux")]
fn part(mark: &str, word: &str) -> u32 {
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|part| part == word)
    };
    marked(mark).into_iter().find(has).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_when_the_guard_is_killed() {
    for (kind, sandbox) in kinds() {
        let mark = mark(kind);
        let mut child = started(&waiting(&mark, sandbox));
        let _out = ready(&mut child);
        until("all are there", || marked(&mark).len() == 4);
        end(part(&mark, "__guard"));
        until("none is left", || marked(&mark).is_empty());
        child.wait().unwrap();
    }
}

/// The gateway's part, played by another process of this program: it starts a server and stays.
#[test]
#[ignore = "the parent of a server, for the tests that kill it"]
fn parent() {
    let mark = std::env::var("MARK").unwrap();
    let kind = std::env::var("KIND").unwrap();
    let (_, sandbox) = kinds().into_iter().find(|(name, _)| *name == kind).unwrap();
    let mut child = started(&waiting(&mark, sandbox));
    let _out = ready(&mut child);
    println!("parent of {}", child.id());
    std::io::stdout().flush().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(600));
}

fn parent_of(mark: &str, kind: &str) -> (Child, u32) {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends::parent", "--ignored", "--nocapture"])
        .env("CAUSEWAY_ESCAPE", super::program())
        .env("MARK", mark)
        .env("KIND", kind)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(parent.stdout.take().unwrap());
    let keeper = out.lines().map_while(Result::ok).find_map(|line| {
        let (_, pid) = line.split_once("parent of ")?;
        pid.parse().ok()
    });
    (parent, keeper.unwrap())
}

#[test]
fn nothing_is_left_when_the_gateway_is_killed() {
    for (kind, _) in kinds() {
        let mark = mark(kind);
        let (mut parent, _) = parent_of(&mark, kind);
        assert!(marked(&mark).len() >= 2);
        parent.kill().unwrap();
        parent.wait().unwrap();
        until("none is left", || marked(&mark).is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_when_gateway_and_keeper_are_killed_at_once() {
    for (kind, _) in kinds() {
        let mark = mark(kind);
        let (mut parent, keeper) = parent_of(&mark, kind);
        until("all are there", || marked(&mark).len() == 4);
        end(keeper);
        end(parent.id());
        parent.wait().unwrap();
        until("none is left", || marked(&mark).is_empty());
    }
    if !super::lacks_namespaces() {
        // All three of ours: the namespace ends with its first process.
        let mark = mark("all");
        let (mut parent, keeper) = parent_of(&mark, "sandboxed");
        until("all are there", || marked(&mark).len() == 4);
        let guard = part(&mark, "__guard");
        for pid in [guard, keeper, parent.id()] {
            end(pid);
        }
        parent.wait().unwrap();
        until("none is left", || marked(&mark).is_empty());
    }
}

#[test]
fn the_server_lives_on_when_the_thread_that_started_it_has_ended() {
    let mark = mark("thread");
    let spec = waiting(&mark, Sandbox::default());
    let mut child = std::thread::spawn(move || started(&spec)).join().unwrap();
    let out = ready(&mut child);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    let said = out.lines().map_while(Result::ok).last().unwrap();
    assert!(said.contains("the input has ended"), "{said}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_keeper_ends_as_the_server_did() {
    for (_, sandbox) in kinds() {
        for code in [0, 1, 77, 255] {
            let ended = run(&spec(sandbox.clone(), &["exit", &code.to_string()]));
            assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        }
        for signal in [6, 9, 11, 15] {
            let mut shell = spec(sandbox.clone(), &["-c", &format!("kill -{signal} $$; sleep 9")]);
            shell.command = "/bin/sh".to_owned();
            let ended = run(&shell);
            assert_eq!(ended.status.signal(), Some(signal), "{ended:?}");
        }
        let mut broken = spec(sandbox, &[]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broken");
        std::fs::write(&file, "#!/no/such/interpreter\n").unwrap();
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        broken.command = file.to_str().unwrap().to_owned();
        let ended = run(&broken);
        assert_eq!(ended.status.code(), Some(127), "{ended:?}");
        assert!(ended.stderr.starts_with("causeway: cannot run `"), "{ended:?}");
        broken.command = "no-such-program".to_owned();
        let why = causeway_native::sandbox::command(&broken, &keeper()).unwrap_err().to_string();
        assert!(why.starts_with("command: `no-such-program` is not found in PATH"), "{why}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_temporary_folder_is_held_for_as_long_as_its_keeper_lives() {
    let own = format!("causeway-{}-", std::process::id());
    let held =
        |path: &std::path::Path| std::fs::File::open(path).is_ok_and(|folder| folder.try_lock().is_err());
    let mark = mark("held");
    let mut child = started(&waiting(&mark, Sandbox::default()));
    let _out = ready(&mut child);
    // The server's environment names it; others of this test are there as well.
    let environment = std::fs::read(format!("/proc/{}/environ", part(&mark, "wait"))).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let Some(temp) = environment.split('\0').find_map(|entry| entry.strip_prefix("TMPDIR=")) else {
        return; // Without the right to look there is nothing to see; root has it.
    };
    let temp = std::path::PathBuf::from(temp);
    assert!(temp.file_name().unwrap().to_string_lossy().starts_with(&own), "{temp:?}");
    assert!(held(&temp));
    end(child.id());
    until("none is left", || marked(&mark).is_empty());
    child.wait().unwrap();
    assert!(temp.is_dir() && !held(&temp), "whoever sweeps may take it");
    std::fs::remove_dir_all(temp).unwrap();
}

#[test]
fn temporary_folders_go_with_the_server() {
    let mut spec = spec(Sandbox::default(), &["-c", "echo $TMPDIR; cat"]);
    spec.command = "/bin/sh".to_owned();
    let mut child = started(&spec);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let temp = std::path::Path::new(line.trim_end());
    let own = format!("causeway-{}-", std::process::id());
    assert!(temp.is_dir() && temp.file_name().unwrap().to_string_lossy().starts_with(&own), "{temp:?}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    until("it is gone", || !temp.exists());
}

/// The keeper is there for every server, and is to cost little.
#[cfg(target_os = "linux")]
#[test]
fn the_keeper_and_the_guard_are_small() {
    let mark = mark("small");
    let mut child = started(&waiting(&mark, Sandbox::default()));
    let _out = ready(&mut child);
    for (pid, name) in [(child.id(), "keeper"), (part(&mark, "__guard"), "guard")] {
        // Without the right to look there is nothing to see; root has it.
        let Ok(rollup) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let of = |name: &str| -> u64 {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_ascii_whitespace().next().unwrap().parse().unwrap()
        };
        // What is not the binary's own file.
        let private = of("Anonymous:");
        assert!(private < 1536, "the {name} has {private} KiB of its own");
    }
}
