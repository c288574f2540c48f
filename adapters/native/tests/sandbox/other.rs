//! All of it once more as a user without rights.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::program;

const NOBODY: u32 = 65534;

#[test]
fn it_holds_for_a_user_without_rights_as_well() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(folder.path(), 0o777);
    // `id` as a program that makes its user root.
    let id = folder.path().join("id");
    std::fs::copy(std::fs::canonicalize("/usr/bin/id").unwrap(), &id).unwrap();
    open(&id, 0o4755);
    let mut again = Command::new(std::env::current_exe().unwrap());
    // They mostly wait.
    again.args(["--skip", "it_holds_for_a_user_without_rights_as_well", "--test-threads", "6"]);
    again.env("CAUSEWAY_ESCAPE", program()).env("CAUSEWAY_SETUID_ID", &id).env("HOME", folder.path());
    let output = again.current_dir("/").uid(NOBODY).gid(NOBODY).output();
    let output = match output {
        // The files of this build cannot be reached by others.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: others may not run what is built here");
            return;
        }
        output => output.unwrap(),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("test result: ok"), "{text}");
}
