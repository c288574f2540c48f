//! The programs that are measured: started, waited for, asked of the system what they cost, ended.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// A tick of `/proc/PID/stat`; every Linux counts in hundredths of a second there.
const TICK: Duration = Duration::from_millis(10);

/// A running program. Dropping it ends it and everything that it started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts `command`, which will listen at `address`, without waiting for it. Its output goes to `/dev/null`.
    pub(crate) fn spawn(mut command: Command, address: SocketAddr) -> Outcome<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(if std::env::var_os("BENCH_SHOW").is_some() {
            Stdio::inherit()
        } else {
            Stdio::null()
        });
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { child, address })
    }

    /// Starts `command` and waits until it takes connections.
    pub(crate) fn start(command: Command, address: SocketAddr) -> Outcome<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = Self::spawn(command, address)?;
        process.connect(Duration::from_secs(20)).map_err(|error| format!("{name}: {error}"))?;
        Ok(process)
    }

    /// Waits until it takes connections.
    pub(crate) fn connect(&mut self, patience: Duration) -> Outcome<()> {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ended at once ({status}); BENCH_SHOW=1 shows what it says"));
            }
            if began.elapsed() > patience {
                return Err(format!("does not listen at {}", self.address));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Its own id and those of everything that it started.
    fn family(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            all.extend(
                children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()),
            );
            next += 1;
        }
        all
    }

    /// The processor time that it has used, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks = self.family().into_iter().map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in brackets may hold spaces; utime and stime are the 12th and 13th field after it.
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
            fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum::<u32>()
        });
        TICK * ticks.sum::<u32>()
    }

    /// The memory that it holds (resident set), in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let kib = self.family().into_iter().filter_map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        kib.sum::<u64>() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx and the Worker's host end what they started when they are asked to; killed, they would not.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A loopback address that nobody listens at.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], causeway_fixture::free_port()))
}

/// Writes nginx's configuration: one reverse proxy for each `(listen, to, streams)`, as plain as it can be.
pub(crate) fn nginx(
    binary: &Path,
    folder: &Path,
    proxies: &[(SocketAddr, SocketAddr, bool)],
) -> Outcome<Command> {
    let mut servers = String::new();
    for (number, (listen, to, streams)) in proxies.iter().enumerate() {
        // Buffering would hold the first event of a stream back until the last.
        let buffering = if *streams { "off" } else { "on" };
        servers.push_str(&format!(
            "upstream up{number} {{ server {to}; keepalive 128; keepalive_requests 1000000000; }}\n\
             server {{ listen {listen}; location / {{ proxy_pass http://up{number}; proxy_http_version 1.1; \
             proxy_set_header Connection \"\"; proxy_set_header Host $http_host; proxy_buffering {buffering}; \
             proxy_buffers 16 32k; }} }}\n"
        ));
    }
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let text = format!(
        "daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log stderr error;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on;\n{paths}{servers}}}\n",
        folder = folder.display()
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    let mut command = Command::new(binary);
    command.arg("-e").arg("stderr").arg("-p").arg(folder).arg("-c").arg(file);
    Ok(command)
}
