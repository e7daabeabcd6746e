#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something fails")]

use super::*;

const ID: &str = "drain-1f-1";

fn order(withdrawn: bool) -> Option<CommandOrder> {
    Some(CommandOrder { id: ID.into(), withdrawn })
}

fn answer(id: &str, step: CommandStep) -> Option<CommandAnswer> {
    Some(CommandAnswer { id: id.into(), step })
}

fn seconds(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

#[test]
fn an_order_is_carried_out_once() {
    let id = || ID.to_owned();
    for (order, answer, signalled_for, action) in [
        (None, None, None, Action::Nothing),
        (order(false), None, None, Action::Drain { id: id() }),
        // Of an earlier order.
        (order(false), answer("drain-0-1", CommandStep::Signalled), seconds(60), Action::Drain { id: id() }),
        (order(false), answer(ID, CommandStep::Signalled), None, Action::Nothing),
        (order(false), answer(ID, CommandStep::Signalled), seconds(9), Action::Nothing),
        (order(false), answer(ID, CommandStep::Signalled), seconds(10), Action::Start { id: id() }),
        // Carried out as it was withdrawn: a signal cannot be taken back.
        (order(true), answer(ID, CommandStep::Signalled), seconds(10), Action::Start { id: id() }),
        (order(false), answer(ID, CommandStep::StartedAgain), seconds(60), Action::Nothing),
        (order(false), answer(ID, CommandStep::Failed), None, Action::Nothing),
        // Given while nobody was there.
        (order(true), None, None, Action::SayReady { id: id() }),
        (order(true), answer("drain-0-1", CommandStep::Failed), None, Action::SayReady { id: id() }),
        (order(true), answer(ID, CommandStep::Ready), None, Action::Nothing),
    ] {
        let seen = Seen { order, answer, signalled_for, ..Seen::default() };
        assert_eq!(next(&seen), action, "{seen:?}");
    }
}

#[test]
fn an_order_from_before_this_command_is_not_begun() {
    let seen = Seen { order: order(false), order_is: Age::FoundThere, ..Seen::default() };
    assert_eq!(next(&seen), Action::Nothing);
    // Its leader takes it back; then there is somebody, and a new one comes.
    let seen = Seen { order: order(true), order_is: Age::FoundThere, ..Seen::default() };
    assert_eq!(next(&seen), Action::SayReady { id: ID.into() });
}

/// Notes what it is called with.
#[derive(Default)]
struct Noted(std::sync::Mutex<Vec<&'static str>>);

impl BootCommand for Noted {
    fn call(&self, verb: Verb) -> BoxFuture<'_, Result<(), String>> {
        self.0.lock().unwrap().push(verb.as_str());
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn boot_is_started_again_once_also_while_no_api_answers() {
    let noted = Arc::new(Noted::default());
    let ago = |seconds| clock::instant().checked_sub(Duration::from_secs(seconds)).unwrap();
    let mut attendant = Attendant::new(noted.clone());
    attendant.looked = Looked::BootIsMember;
    attendant.signalled = Some((ID.into(), ago(9)));
    assert_eq!(attendant.look_without_api().await, None);
    attendant.signalled = Some((ID.into(), ago(11)));
    assert!(attendant.look_without_api().await.is_some());
    assert_eq!(attendant.look_without_api().await, None);
    assert_eq!(*noted.0.lock().unwrap(), ["start"]);
    // One that is known to be out is not.
    let mut attendant = Attendant::new(noted.clone());
    (attendant.looked, attendant.signalled) = (Looked::BootIsOut, Some((ID.into(), ago(11))));
    assert_eq!(attendant.look_without_api().await, None);
    assert_eq!(noted.0.lock().unwrap().len(), 1);
}

#[test]
fn a_boot_that_is_out_is_killed_whatever_was_said_before() {
    let kill = |id: &str| Action::Kill { id: id.into() };
    for (order, answer, kill_failed_for, action) in [
        (order(false), answer(ID, CommandStep::Signalled), None, kill(ID)),
        (order(false), answer(ID, CommandStep::StartedAgain), None, kill(ID)),
        (order(false), answer(ID, CommandStep::Failed), None, kill(ID)),
        // Signalled by a command that died before it could say so; or dead, and removed without an order.
        (order(false), None, None, kill(ID)),
        (order(true), None, None, kill(ID)),
        (None, answer(ID, CommandStep::Signalled), None, kill(ID)),
        (None, None, None, kill("")),
        (order(false), answer(ID, CommandStep::Gone), None, Action::Nothing),
        (order(false), answer(ID, CommandStep::Signalled), Some(Duration::from_millis(900)), Action::Nothing),
        (order(false), answer(ID, CommandStep::Signalled), seconds(1), kill(ID)),
    ] {
        let seen = Seen { boot: Listed::No, order, answer, kill_failed_for, ..Seen::default() };
        assert_eq!(next(&seen), action, "{seen:?}");
    }
}

#[test]
fn what_cannot_be_run_is_bad_usage() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("boot.sh");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    for (path, words) in [
        (dir.path().join("missing"), "No such file"),
        (dir.path().to_owned(), "not executable"),
        (file.clone(), "not executable"),
        ("boot.sh drain".into(), "one executable file"),
    ] {
        match Program::at(&path) {
            Err(PivotError::Usage(text)) => assert!(text.contains(words) && text.contains("--boot-command"), "{text}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{} is taken", path.display()),
        }
    }
    set_mode(&file);
    assert!(Program::at(&file).is_ok());
}

#[tokio::test]
async fn the_program_gets_the_verb_and_nothing_else_and_its_failure_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (file, said) = (dir.path().join("boot.sh"), dir.path().join("said"));
    std::fs::write(&file, format!("#!/bin/sh\necho \"$#:$1\" >>{}\ntest \"$1\" != kill\n", said.display())).unwrap();
    set_mode(&file);
    let program = Program::at(&file).unwrap();
    assert_eq!(program.call(Verb::Drain).await, Ok(()));
    assert_eq!(program.call(Verb::Start).await, Ok(()));
    let why = program.call(Verb::Kill).await.unwrap_err();
    assert!(why.contains("boot.sh kill: exit status: 1"), "{why}");
    assert_eq!(std::fs::read_to_string(said).unwrap(), "1:drain\n1:start\n1:kill\n");
}

fn set_mode(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}
