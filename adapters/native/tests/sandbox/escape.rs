//! Every way out that we know, tried.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use causeway::config::plan::{Sandbox, SandboxMode};
use causeway_native::sandbox::{command, report};

use super::{Ended, home, keeper, off, run, spec};

/// Fails in the sandbox and succeeds without. Gives back how it failed.
#[track_caller]
fn refused(sandbox: Sandbox, args: &[&str]) -> Ended {
    let free = run(&spec(off(), args));
    assert!(free.done(), "{args:?} fails without a sandbox, so that it proves nothing: {free:?}");
    let kept = run(&spec(sandbox, args));
    assert!(!kept.done(), "{args:?} got out: {kept:?}");
    kept
}

#[track_caller]
fn allowed(sandbox: Sandbox, args: &[&str]) {
    let kept = run(&spec(sandbox, args));
    assert!(kept.done(), "{args:?}: {kept:?}");
}

/// A process of ours that a server may not touch.
struct Victim(Child);

impl Victim {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").env("SECRET", "s3cret").spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Whether this kernel lacks what a test is about. Says so if it does.
fn lacks(what: &str) -> bool {
    let lacks = report(&spec(Sandbox::default(), &[]), &keeper()).lacks;
    let missing = lacks.iter().find(|text| text.contains(what));
    if let Some(missing) = missing {
        eprintln!("skipped: {missing}");
    }
    missing.is_some()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_server_has_its_own_folders() {
    allowed(Sandbox::default(), &["own-files"]);
}

#[test]
fn files_that_are_not_listed_are_neither_read_nor_written() {
    if lacks("no Landlock") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["secret", "gone"] {
        std::fs::write(path(name), "x").unwrap();
    }
    let listed = |read: bool, write: bool| Sandbox {
        read: read.then(|| path("")).into_iter().collect(),
        write: write.then(|| path("")).into_iter().collect(),
        ..Sandbox::default()
    };
    refused(listed(false, false), &["read", &path("secret")]);
    refused(listed(false, false), &["list", &path("")]);
    refused(listed(false, false), &["write", &path("new")]);
    allowed(listed(true, false), &["read", &path("secret")]);
    refused(listed(true, false), &["write", &path("secret")]);
    refused(listed(true, false), &["write", &path("new")]);
    allowed(listed(false, true), &["write", &path("new")]);
    allowed(listed(false, true), &["read", &path("new")]);
    let kept = run(&spec(listed(true, false), &["remove", &path("gone")]));
    assert!(!kept.done() && folder.path().join("gone").exists(), "{kept:?}");
    // A link does not lead out.
    std::fs::create_dir(path("open")).unwrap();
    std::os::unix::fs::symlink(path("secret"), path("open/link")).unwrap();
    let open = Sandbox { write: vec![path("open")], ..Sandbox::default() };
    refused(open, &["read", &path("open/link")]);
    // What is in the home directory stays there.
    std::fs::write(home().join(".netrc"), "password").unwrap();
    refused(Sandbox::default(), &["read", home().join(".netrc").to_str().unwrap()]);
    refused(Sandbox::default(), &["list", home().to_str().unwrap()]);
    if is_root() {
        refused(Sandbox::default(), &["read", "/etc/shadow"]);
    }
}

#[test]
fn the_environment_of_others_is_not_read() {
    let victim = Victim::new();
    if lacks("no PID namespace") && lacks("no Landlock") {
        return;
    }
    refused(Sandbox::default(), &["environment", &victim.pid(), "s3cret"]);
    refused(Sandbox { namespace: false, ..Sandbox::default() }, &["environment", &victim.pid(), "s3cret"]);
    // The keeper carries the server's own variables; nobody else's business either.
    for namespace in [true, false] {
        let kept =
            run(&spec(Sandbox { namespace, ..Sandbox::default() }, &["environment", "parent", "HOME"]));
        assert!(!kept.done(), "{kept:?}");
    }
}

#[test]
fn nothing_of_the_gateways_environment_is_handed_on() {
    // Cargo has set these for this very process.
    for sandbox in [Sandbox::default(), off()] {
        let kept = run(&spec(sandbox, &["own-environment"]));
        let names: Vec<&str> = kept.what().split(' ').collect();
        assert!(names.contains(&"PATH") && names.contains(&"HOME"), "{names:?}");
        let strange = names.iter().find(|name| name.starts_with("CARGO") || name.contains(':'));
        assert_eq!(strange, None, "{names:?}");
        assert!(!names.contains(&"CAUSEWAY_KEEP"), "{names:?}");
    }
}

#[test]
fn a_fork_bomb_ends_itself_and_nothing_of_it_stays() {
    for namespace in [true, false] {
        let sandbox = Sandbox { processes: 40, namespace, ..Sandbox::default() };
        let kept = refused(sandbox, &["fork", "300"]);
        let stopped = kept.stderr.contains("more than 40 processes") && kept.status.signal() == Some(9);
        let held = kept.what().contains("Resource temporarily unavailable");
        assert!(stopped || held, "{kept:?}");
    }
    refused(Sandbox { processes: 40, ..Sandbox::default() }, &["threads", "200"]);
    allowed(Sandbox { processes: 40, ..Sandbox::default() }, &["fork", "20"]);
}

#[test]
fn memory_is_limited_in_one_process_and_in_many() {
    for namespace in [true, false] {
        let sandbox = || Sandbox { memory: 128 << 20, namespace, ..Sandbox::default() };
        let kept = refused(sandbox(), &["allocate", "1024"]);
        assert!(kept.stderr.contains("sandbox.memory") && kept.status.signal() == Some(9), "{kept:?}");
        let kept = refused(sandbox(), &["allocate-in-children", "4", "64"]);
        assert!(kept.stderr.contains("sandbox.memory"), "{kept:?}");
        allowed(sandbox(), &["allocate", "64"]);
    }
}

#[test]
fn cpu_time_is_limited() {
    let sandbox = |seconds| Sandbox { cpu: std::time::Duration::from_secs(seconds), ..Sandbox::default() };
    let kept = refused(sandbox(1), &["burn", "3"]);
    // Whoever sees it first: the keeper (SIGKILL) or the system (SIGXCPU).
    assert!(matches!(kept.status.signal(), Some(9 | 24)), "{kept:?}");
    allowed(sandbox(30), &["burn", "0.5"]);
}

#[test]
fn open_files_and_their_size_are_limited() {
    let kept = refused(Sandbox { files: 64, ..Sandbox::default() }, &["open", "200"]);
    assert!(kept.what().contains("Too many open files"), "{kept:?}");
    let folder = tempfile::tempdir().unwrap();
    let (path, write) = (folder.path().join("big"), vec![folder.path().to_str().unwrap().to_owned()]);
    refused(
        Sandbox { file_size: 1 << 20, write, ..Sandbox::default() },
        &["grow", path.to_str().unwrap(), "8"],
    );
    assert!(std::fs::metadata(&path).unwrap().len() <= 1 << 20);
}

#[test]
fn the_network_is_closed_if_it_is_forbidden_and_open_if_not() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let _unix = UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    let closed = || Sandbox { network: false, ..Sandbox::default() };
    if !lacks("no seccomp") {
        refused(closed(), &["tcp", &address]);
        refused(closed(), &["udp"]);
        refused(closed(), &["unix", socket]);
    }
    allowed(Sandbox::default(), &["tcp", &address]);
    allowed(Sandbox::default(), &["udp"]);
}

#[test]
fn no_rights_are_gained() {
    if lacks("no seccomp") {
        return;
    }
    for namespace in [true, false] {
        let sandbox = || Sandbox { namespace, ..Sandbox::default() };
        // Some systems forbid it to everybody.
        if run(&spec(off(), &["user-namespace"])).done() {
            refused(sandbox(), &["user-namespace"]);
        }
        if is_root() {
            refused(sandbox(), &["mount"]);
        }
        // Root may raise limits, on most systems.
        if run(&spec(off(), &["raise"])).done() {
            refused(sandbox(), &["raise"]);
        }
    }
    // A program that makes its user root: only root can lay one down.
    if let Some(id) = std::env::var_os("CAUSEWAY_SETUID_ID") {
        let id = id.to_str().unwrap();
        let read = vec![id.to_owned()];
        refused(Sandbox { read, ..Sandbox::default() }, &["setuid", id]);
    }
}

#[test]
fn other_processes_are_neither_seen_nor_touched() {
    for namespace in [true, false] {
        let sandbox = || Sandbox { namespace, ..Sandbox::default() };
        let victim = Victim::new();
        if !lacks("no Landlock") {
            refused(sandbox(), &["look", &victim.pid()]);
        }
        // Some systems forbid it to everybody.
        if run(&spec(off(), &["trace", &victim.pid()])).done() {
            refused(sandbox(), &["trace", &victim.pid()]);
        }
        if (namespace && !lacks("no PID namespace")) || !lacks("(6 is needed)") {
            // In this order: without a sandbox the signal ends it.
            let kept = run(&spec(sandbox(), &["signal", &victim.pid()]));
            assert!(!kept.done(), "{kept:?}");
            assert!(run(&spec(off(), &["signal", &victim.pid()])).done());
        }
    }
    if !lacks("no PID namespace") {
        let victim = Victim::new();
        refused(Sandbox::default(), &["see", &victim.pid()]);
    }
}

#[test]
fn a_required_sandbox_is_whole_or_the_server_is_not_run() {
    let required = spec(Sandbox { mode: SandboxMode::Required, ..Sandbox::default() }, &["own-files"]);
    if lacks("no Landlock") || lacks("no seccomp") {
        let why = command(&required, &keeper()).unwrap_err().to_string();
        assert!(why.contains("is required"), "{why}");
    } else {
        assert!(run(&required).done());
    }
}

#[test]
fn what_will_be_refused_is_said_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let lost = Sandbox { read: vec!["/no/such/folder".to_owned()], ..Sandbox::default() };
    let said = report(&spec(lost, &["list", path]), &keeper()).to_string();
    assert!(said.contains(&format!("{path} is among the arguments")), "{said}");
    assert!(said.contains("/no/such/folder is not there"), "{said}");
    let listed = Sandbox { read: vec![path.to_owned()], ..Sandbox::default() };
    let said = report(&spec(listed, &["list", path]), &keeper());
    assert_eq!(said.notes, Vec::<String>::new());
    assert_eq!(report(&spec(off(), &["list", path]), &keeper()).to_string(), "sandbox: off");
}

#[test]
fn a_script_is_run_with_the_project_that_it_is_part_of() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("project/src")).unwrap();
    std::fs::write(at("project/package.json"), "{}").unwrap();
    std::fs::write(at("project/part.sh"), "echo part").unwrap();
    std::fs::write(
        at("project/src/run.sh"),
        format!(". {}; cat {}", at("project/part.sh").display(), at("x").display()),
    )
    .unwrap();
    std::fs::write(at("x"), "secret").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = spec(Sandbox::default(), &[at("project/src/run.sh").to_str().unwrap()]);
    spec.command = "sh".to_owned();
    let mut command = command(&spec, &keeper()).unwrap().into_std();
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "part\n", "{err}");
    assert!(err.contains("Permission denied") || lacks("no Landlock"), "{err}");
}

#[test]
fn git_does_without_a_configuration_that_it_may_not_read() {
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("skipped: there is no git");
        return;
    }
    std::fs::write(home().join(".gitconfig"), "[user]\nname = me\n").unwrap();
    let mut spec = spec(Sandbox::default(), &["config", "--get", "user.name"]);
    spec.command = "git".to_owned();
    // Not found, which is another thing than broken (128).
    assert_eq!(run(&spec).status.code(), Some(1));
    spec.sandbox.read.push("~/.gitconfig".to_owned());
    assert_eq!(run(&spec).status.code(), Some(0));
}
