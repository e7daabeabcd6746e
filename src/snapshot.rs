//! `etcd-operator snapshot`: backups by hand, and a look at those that are there. Needs no API.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use etcd_operator_backup::{Backup, DiskRoom, Listed, Manifest, Name, Order, Progress, Proven, Store, prove, take, timestamp};
use etcd_operator_etcd::client::{EtcdClient, Tls};
use serde_json::{Value, json};

use crate::cli::{block_on, fail};
use crate::clock;

/// A human ends it sooner.
const SAVE_WITHIN: Duration = Duration::from_secs(86_400);
/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// `etcd-operator snapshot …`.
#[derive(Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Takes a backup of the member at an endpoint, and proves it.
    Save(Save),
    /// Shows the backups in a directory, the oldest first.
    List(List),
    /// Reads backups or snapshots to their end and says whether they are whole. Ends with 1 if one is not.
    Verify(Verify),
    /// Makes a plain snapshot of a backup, as `etcdutl snapshot restore` reads it.
    Get(Get),
}

#[derive(Args)]
struct Save {
    /// The directory to write to, which must be there.
    dir: PathBuf,
    /// The member's client URL. A healthy follower is best.
    #[arg(long)]
    endpoint: String,
    /// The CA of etcd's certificates, PEM.
    #[arg(long)]
    cacert: PathBuf,
    /// The client's certificate, PEM.
    #[arg(long)]
    cert: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct List {
    /// The directory.
    dir: PathBuf,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct Verify {
    /// Files (`.db.zst`, or plain `.db`), or directories with backups.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct Get {
    /// The backup (`.db.zst`).
    backup: PathBuf,
    /// The file to write, which must not be there.
    out: PathBuf,
}

/// How to print.
#[derive(Args, Clone, Copy)]
pub(crate) struct Format {
    /// How to print.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// For a human, or a program.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Runs it to its end.
#[must_use]
pub fn main(args: SnapshotArgs) -> ExitCode {
    // What is in etcd is for whoever runs this.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let mut all_whole = true;
    let work = async {
        match args.what {
            What::Save(save) => self::save(&save).await,
            What::List(list) => self::list(&list).await,
            What::Verify(verify) => self::verify(&verify).await.map(|whole| all_whole = whole),
            What::Get(get) => self::get(&get).await,
        }
    };
    let code = block_on(work);
    if code == ExitCode::SUCCESS && !all_whole { fail("not all of it is whole") } else { code }
}

async fn save(args: &Save) -> Result<(), String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let tls = Tls { ca: read(&args.cacert)?, cert: read(&args.cert)?, key: read(&args.key)? };
    let client = EtcdClient::new(&args.endpoint, &tls).await.map_err(|error| error.to_string())?;
    let place = Store::directory(&args.dir).map_err(|error| error.to_string())?;
    let order = Order {
        backup: String::new(),
        id: crate::controller::unique_id("manual"),
        cluster: String::new(),
        cluster_id: None,
        lineage: 0,
        limit: SAVE_WITHIN,
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let progress = Arc::new(Progress::default());
    let bar = tokio::spawn(show(Arc::clone(&progress)));
    let taken = take(&client, &place, &DiskRoom::of(args.dir.clone(), 1), &order, timestamp(clock::now_ms()), &progress).await;
    bar.abort();
    clear_line();
    let backup = taken.map_err(|error| error.to_string())?;
    print(args.format, &[row(&args.dir, &backup)]);
    Ok(())
}

async fn list(args: &List) -> Result<(), String> {
    let listed = listed(&args.dir).await?;
    let rows: Vec<Row> = listed.backups.iter().map(|backup| row(&args.dir, backup)).collect();
    print(args.format, &rows);
    for (name, error) in &listed.damaged {
        eprintln!("{}: {error}", args.dir.join(name.data()).display());
    }
    for name in &listed.unfinished {
        eprintln!("{}: has no manifest: not finished, or under way", args.dir.join(name.data()).display());
    }
    Ok(())
}

async fn listed(dir: &Path) -> Result<Listed, String> {
    Store::directory(dir).map_err(|error| error.to_string())?.list().await.map_err(|error| error.to_string())
}

async fn verify(args: &Verify) -> Result<bool, String> {
    let mut files = Vec::new();
    let mut whole = true;
    for path in &args.paths {
        if path.is_dir() {
            let listed = listed(path).await?;
            if listed.backups.is_empty() {
                eprintln!("{}: there is no backup", path.display());
                whole = false;
            }
            files.extend(listed.backups.iter().map(|backup| path.join(backup.name.data())));
            for (_, error) in listed.damaged {
                eprintln!("{error}");
                whole = false;
            }
        } else {
            files.push(path.clone());
        }
    }
    let mut rows = Vec::new();
    for file in files {
        match verified(&file).await {
            Ok((proven, manifest)) => rows.push(row_of(&file, &proven, manifest.as_ref())),
            Err(why) => {
                eprintln!("{}: {why}", file.display());
                whole = false;
            }
        }
    }
    print(args.format, &rows);
    Ok(whole)
}

/// Reads a file to its end, and compares it with the manifest beside it if there is one.
async fn verified(file: &Path) -> Result<(Proven, Option<Manifest>), String> {
    let stored = tokio::fs::File::open(file).await.map_err(|error| error.to_string())?;
    let proven = prove(stored, &mut tokio::io::sink()).await.map_err(|error| error.to_string())?;
    let manifest = manifest_beside(file)?;
    if let Some(manifest) = &manifest
        && (&manifest.sha256, manifest.bytes, &manifest.db_sha256) != (&proven.sha256, proven.bytes, &proven.db_sha256)
    {
        return Err("is a whole snapshot, and not the one of its manifest".into());
    }
    Ok((proven, manifest))
}

fn manifest_beside(file: &Path) -> Result<Option<Manifest>, String> {
    let Some(name) = file.file_name().and_then(|name| name.to_str()).and_then(Name::parse) else { return Ok(None) };
    match std::fs::read(file.with_file_name(name.manifest())) {
        Ok(json) => Manifest::read(&name, &json).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn get(args: &Get) -> Result<(), String> {
    let proven = make_plain(&args.backup, &args.out).await?;
    println!("{}: {} bytes, SHA-256 of the database {}", args.out.display(), proven.db_bytes, proven.db_sha256);
    Ok(())
}

/// Makes a plain snapshot of a backup, or of a plain one, and proves it on the way. It gets its name once it is whole and on the disk.
pub(crate) async fn make_plain(backup: &Path, out: &Path) -> Result<Proven, String> {
    if out.exists() {
        return Err(format!("{} is there already: name another file", out.display()));
    }
    let stored = tokio::fs::File::open(backup).await.map_err(|error| format!("{}: {error}", backup.display()))?;
    let cannot = |error: std::io::Error| format!("{}: {error}", out.display());
    let dir = out.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let temporary = out.with_extension("part");
    let mut file =
        tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).await.map_err(cannot)?;
    let written = async {
        let proven = prove(stored, &mut file).await.map_err(|error| format!("{}: {error}", backup.display()))?;
        if let Some(manifest) = manifest_beside(backup)?
            && manifest.db_sha256 != proven.db_sha256
        {
            return Err(format!("{} is a whole snapshot, and not the one of its manifest", backup.display()));
        }
        file.sync_all().await.map_err(cannot)?;
        std::fs::rename(&temporary, out).map_err(cannot)?;
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot)?;
        Ok(proven)
    };
    let written = written.await;
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// One line of a table.
struct Row {
    file: String,
    proven: Proven,
    manifest: Option<Manifest>,
}

fn row(dir: &Path, backup: &Backup) -> Row {
    let manifest = &backup.manifest;
    let proven = Proven {
        bytes: manifest.bytes,
        sha256: manifest.sha256.clone(),
        db_bytes: manifest.db_bytes,
        db_sha256: manifest.db_sha256.clone(),
    };
    row_of(&dir.join(backup.name.data()), &proven, Some(manifest))
}

fn row_of(file: &Path, proven: &Proven, manifest: Option<&Manifest>) -> Row {
    Row { file: file.display().to_string(), proven: proven.clone(), manifest: manifest.cloned() }
}

fn print(format: Format, rows: &[Row]) {
    match format.output {
        Output::Json => {
            let json = |row: &Row| -> Value {
                json!({
                    "file": row.file, "bytes": row.proven.bytes, "sha256": row.proven.sha256,
                    "dbBytes": row.proven.db_bytes, "dbSha256": row.proven.db_sha256, "manifest": row.manifest,
                })
            };
            println!("{}", Value::Array(rows.iter().map(json).collect()));
        }
        Output::Table => {
            let mut cells = vec![["TAKEN", "REVISION", "ETCD", "CLUSTER ID", "SIZE", "DATABASE", "FILE"].map(str::to_owned)];
            cells.extend(rows.iter().map(|row| {
                let of = |field: fn(&Manifest) -> String| row.manifest.as_ref().map_or_else(|| "?".to_owned(), field);
                [
                    of(|m| m.taken.to_string()),
                    of(|m| m.revision.to_string()),
                    of(|m| m.etcd_version.clone()),
                    of(|m| m.cluster_id.clone()),
                    size(row.proven.bytes),
                    size(row.proven.db_bytes),
                    row.file.clone(),
                ]
            }));
            print!("{}", table(&cells));
        }
    }
}

/// Lines with columns one below the other.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn size(bytes: u64) -> String {
    if bytes < 10 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

/// On a terminal one line that changes; else a line now and then.
async fn show(progress: Arc<Progress>) {
    let mut shown = 0_u32;
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let (round, done, of) = progress.now();
        if of == 0 {
            continue;
        }
        let what = if round == 1 { "read from etcd" } else { "proven" };
        let line = format!("{} of {} {what} ({} %)", size(done), size(of), (done * 100 / of.max(1)).min(100));
        shown += 1;
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else if shown.is_multiple_of(10) {
            eprintln!("{line}");
        }
    }
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}
