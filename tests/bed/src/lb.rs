//! The load balancer in front of the API servers: haproxy in a network namespace of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{At, Error, Result};
use crate::layout::{API_PORT, BOOT_API_PORT, LB_IP, Layout, Options, RUN, write};

/// Starts haproxy. It knows both API servers of each node, the temporary and the one that stays, and uses those whose
/// `/readyz` says yes.
///
/// # Errors
/// If it does not start.
pub fn start(layout: &Layout, options: &Options) -> Result<()> {
    let config = Path::new(RUN).join("haproxy.cfg");
    write(&config, text(layout, options)?, 0o644)?;
    let log = layout.path("haproxy.log");
    let out = fs::File::create(&log).at(&log)?;
    crate::cgroup::create("lb")?;
    let mut command = Command::new("setsid");
    command.arg("nsenter").arg(format!("--net=/run/netns/{}", crate::network::lb_netns()));
    command.arg("haproxy").arg("-db").arg("-f").arg(&config);
    command.stdin(Stdio::null()).stdout(out.try_clone().at(&log)?).stderr(out);
    let mut child = command.spawn().map_err(|e| Error::State(format!("haproxy: {e}")))?;
    crate::cgroup::join("lb", child.id())?;
    std::thread::sleep(std::time::Duration::from_millis(100));
    match child.try_wait() {
        Ok(Some(status)) => Err(Error::State(format!("haproxy ended ({status}): see {}", log.display()))),
        _ => Ok(()),
    }
}

fn text(layout: &Layout, options: &Options) -> Result<String> {
    let ca = layout.path("pki/ca.crt");
    let mut servers = String::new();
    for node in options.all() {
        servers += &format!("    server {} {}:{API_PORT}\n", node.name, node.ip());
    }
    let boot = options.boot()?;
    servers += &format!("    server boot {}:{BOOT_API_PORT}\n", boot.ip());
    Ok(format!(
        "global\n    maxconn 4000\n    stats socket {RUN}/haproxy.sock mode 600\n\
         defaults\n    mode tcp\n    log global\n    option dontlognull\n    timeout connect 2s\n    \
         timeout client 24h\n    timeout server 24h\n    timeout check 2s\n    option clitcpka\n    option srvtcpka\n\
         frontend api\n    bind {LB_IP}:6443\n    default_backend api\n\
         backend api\n    balance roundrobin\n    option httpchk GET /readyz\n    http-check expect status 200\n    \
         option redispatch\n    retries 3\n    \
         default-server check check-ssl verify required ca-file {} inter 1s fastinter 200ms downinter 300ms fall 3 rise 1 on-marked-down shutdown-sessions\n{servers}",
        ca.display()
    ))
}

/// The API servers that haproxy uses now, by its own names (`cp1` …, `boot`).
///
/// # Errors
/// If haproxy does not answer.
pub fn ready_servers() -> Result<Vec<String>> {
    use std::io::{Read, Write};
    let path = Path::new(RUN).join("haproxy.sock");
    let mut socket = std::os::unix::net::UnixStream::connect(&path).at(&path)?;
    socket.write_all(b"show stat\n").at(&path)?;
    let mut csv = String::new();
    socket.read_to_string(&mut csv).at(&path)?;
    let up = csv.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(',').collect();
        let (backend, server, status) = (fields.first()?, fields.get(1)?, fields.get(17)?);
        (*backend == "api" && !["FRONTEND", "BACKEND"].contains(server) && status.starts_with("UP")).then(|| (*server).to_owned())
    });
    Ok(up.collect())
}
