//! Running other programs, and the flag that Ctrl-C sets.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static STARTED: OnceLock<Instant> = OnceLock::new();

/// Prints a line of progress with the seconds since the start, on stderr: stdout belongs to a verb's result.
pub fn progress(text: impl AsRef<str>) {
    let started = STARTED.get_or_init(Instant::now);
    let line = format!("[{:6.1}s] {}\n", started.elapsed().as_secs_f32(), text.as_ref());
    // One write, so that lines of several threads don't mix; a closed terminal is no reason to stop.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// From now on SIGINT, SIGTERM and SIGHUP end the verb at its next step instead of ending the process on the spot, so
/// that it can clean up. A second signal is ignored: cleaning up takes about a second.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn catch_signals() -> Result<()> {
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
    let mut signals =
        signal_hook::iterator::Signals::new(signals).map_err(|e| Error::State(format!("cannot catch signals: {e}")))?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if !INTERRUPTED.swap(true, Ordering::SeqCst) {
                progress("interrupted: cleaning up ...");
            }
        }
    });
    Ok(())
}

/// Ends a step early after Ctrl-C.
///
/// # Errors
/// [`Error::Interrupted`] if a signal came.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Forgets the signal, so that cleaning up may run commands.
pub fn clear_interrupt() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}

/// The command line as text, for messages.
fn describe<S: AsRef<OsStr>>(args: &[S]) -> String {
    let words: Vec<_> = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect();
    let text = words.join(" ");
    if text.len() > 300 { format!("{} ...", text.chars().take(300).collect::<String>()) } else { text }
}

fn command<S: AsRef<OsStr>>(args: &[S]) -> Result<Command> {
    let (program, rest) = args.split_first().ok_or_else(|| Error::State("empty command".into()))?;
    let mut command = Command::new(program);
    command.args(rest);
    Ok(command)
}

/// The last lines of what a program printed.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.trim().lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).copied().collect::<Vec<_>>().join("\n")
}

fn check<S: AsRef<OsStr>>(args: &[S], output: std::io::Result<Output>) -> Result<String> {
    let failed = |status: String, output: String| Error::Command { command: describe(args), status, output };
    let output = output.map_err(|e| failed(e.to_string(), String::new()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = if output.stderr.is_empty() { tail(&output.stdout) } else { tail(&output.stderr) };
    Err(failed(output.status.to_string(), text))
}

/// Runs a program to its end and returns its stdout.
///
/// # Errors
/// If it cannot be started or fails; the error shows the end of its stderr.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Result<String> {
    check_interrupt()?;
    check(args, command(args)?.stdin(Stdio::null()).output())
}

/// Runs a program and says only whether it succeeded; its output is dropped.
pub fn succeeds<S: AsRef<OsStr>>(args: &[S]) -> bool {
    run(args).is_ok()
}

/// Runs a program with text on its stdin.
///
/// # Errors
/// As [`run`].
pub fn run_with_input<S: AsRef<OsStr>>(args: &[S], input: &[u8]) -> Result<String> {
    run_prepared(command(args)?, &describe(args), input)
}

/// Runs a command that is set up already; messages call it `name`.
///
/// # Errors
/// As [`run`].
pub fn run_prepared(mut command: Command, name: &str, input: &[u8]) -> Result<String> {
    check_interrupt()?;
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => return check(&[name], Err(e)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why by its status.
        let _ = stdin.write_all(input);
    }
    check(&[name], child.wait_with_output())
}

/// Runs a long program whose stderr goes to the terminal, and returns its stdout. Ctrl-C ends it.
///
/// # Errors
/// As [`run`], and [`Error::Interrupted`].
pub fn run_long(mut command: Command, what: &str) -> Result<String> {
    check_interrupt()?;
    let failed = |status: String| Error::Command { command: what.to_owned(), status, output: "see its messages above".into() };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| failed(e.to_string()))?;
    let reader = child.stdout.take().map(|mut out| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = out.read_to_string(&mut text);
            text
        })
    });
    let mut ticked = Instant::now();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| failed(e.to_string()))? {
            break status;
        }
        if check_interrupt().is_err() {
            // SIGTERM, not SIGKILL: cargo and the go command then end their own children.
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = child.wait();
            return Err(Error::Interrupted);
        }
        if ticked.elapsed() > Duration::from_secs(15) {
            ticked = Instant::now();
            progress(format!("  still at it: {what} ({} s)", started.elapsed().as_secs()));
        }
        std::thread::sleep(Duration::from_millis(30));
    };
    let text = reader.and_then(|r| r.join().ok()).unwrap_or_default();
    if status.success() { Ok(text) } else { Err(failed(status.to_string())) }
}

/// Asks again and again, every 100 ms, until the answer is there. A line every 5 s says what it waits for.
///
/// # Errors
/// [`Error::Timeout`] with the last thing seen, and [`Error::Interrupted`].
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    hint: &str,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let started = Instant::now();
    let mut said = Instant::now();
    loop {
        check_interrupt()?;
        let last = match probe() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if started.elapsed() > limit {
            let hint = hint.to_owned();
            return Err(Error::Timeout { what: what.to_owned(), seconds: limit.as_secs(), last, hint });
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            let short: String = last.lines().last().unwrap_or_default().chars().take(160).collect();
            progress(format!("  waiting for {what}: {short}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
