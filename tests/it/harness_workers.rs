//! Do the processes that the other tests start, pause and kill follow their commands?

use std::path::Path;
use std::time::Duration;

use crate::servers::{ServerError, Worker, is_running, wait_for, worker};

const PATIENCE: Duration = Duration::from_secs(30);

/// The worker of most tests: answers, fails, or has a worker of its own.
#[test]
fn worker_that_answers() {
    let Some(lines) = worker::parent_lines() else { return };
    let mut workers = Vec::new();
    for line in lines {
        match line.as_str() {
            "fail" => panic!("as it was told"),
            "start" => {
                let mut worker =
                    Worker::start("harness_workers::worker_that_answers", &[]).unwrap();
                worker.pause().unwrap();
                worker::say(&worker.pid().to_string());
                workers.push(worker);
            }
            line => worker::say(&format!("{}: {line}", std::env::var("GREETING").unwrap())),
        }
    }
}

fn start_worker() -> Result<Worker, ServerError> {
    Worker::start("harness_workers::worker_that_answers", &[("GREETING", "heard")])
}

#[test]
fn a_worker_answers_until_it_is_to_finish() -> Result<(), ServerError> {
    let mut worker = start_worker()?;
    assert_ne!(worker.pid(), std::process::id());
    for line in ["one", "two"] {
        worker.send(line)?;
        assert_eq!(worker.next_line(PATIENCE)?, format!("heard: {line}"));
    }
    worker.send("three")?;
    worker.send("four")?;
    assert!(worker.finish()?.success());
    assert_eq!(worker.lines().collect::<Vec<_>>(), ["heard: three", "heard: four"]);
    assert!(worker.send("five").is_err());
    Ok(())
}

#[test]
fn a_paused_worker_answers_after_it_is_resumed() -> Result<(), ServerError> {
    let mut worker = start_worker()?;
    worker.pause()?;
    worker.send("one")?;
    assert!(worker.next_line(Duration::from_millis(1)).is_err());
    worker.resume()?;
    assert_eq!(worker.next_line(PATIENCE)?, "heard: one");
    Ok(())
}

#[test]
fn a_worker_is_killed_paused_or_not() -> Result<(), ServerError> {
    for paused in [false, true] {
        let mut worker = start_worker()?;
        worker.send("one")?;
        assert_eq!(worker.next_line(PATIENCE)?, "heard: one");
        if paused {
            worker.pause()?;
        }
        worker.kill()?;
        assert!(!is_running(worker.pid()));
        let error = worker.next_line(PATIENCE).unwrap_err().to_string();
        assert!(error.contains("its output has ended"), "{error}");
        assert!(worker.resume().is_err());
    }
    let worker = start_worker()?;
    let pid = worker.pid();
    drop(worker);
    assert!(!is_running(pid));
    Ok(())
}

#[test]
fn a_worker_that_fails_says_why() -> Result<(), ServerError> {
    let mut worker = start_worker()?;
    worker.send("fail")?;
    let error = worker.next_line(PATIENCE).unwrap_err().to_string();
    assert!(error.contains("exit status: 101"), "{error}");
    assert!(error.contains("as it was told"), "{error}");
    assert!(!worker.finish()?.success());

    let error = Worker::start("harness_workers::no_such_test", &[]).unwrap_err().to_string();
    assert!(error.contains("no such test"), "{error}");
    Ok(())
}

#[test]
fn a_worker_dies_with_its_parent_even_when_it_is_paused() -> Result<(), ServerError> {
    let mut parent = start_worker()?;
    parent.send("start")?;
    let pid = parent.next_line(PATIENCE)?.parse().unwrap();
    assert!(is_running(pid));
    parent.kill()?;
    let gone = wait_for(PATIENCE, || (!is_running(pid)).then_some(()));
    assert!(gone.is_some(), "waited in vain until the worker's worker is gone");
    Ok(())
}

#[test]
fn any_program_can_be_a_worker() -> Result<(), ServerError> {
    let script = "read line; echo \"@ $line\"; echo; echo \"$1\"; exit 3";
    let mut worker = Worker::run(Path::new("/bin/sh"), &["-c", script, "sh", "argument"])?;
    worker.send("line")?;
    assert_eq!(worker.next_line(PATIENCE)?, "line");
    assert_eq!(worker.next_line(PATIENCE)?, "argument");
    assert_eq!(worker.finish()?.code(), Some(3));

    // The same as a name to look for on PATH.
    let mut worker = Worker::run(Path::new("echo"), &["hello"])?;
    assert_eq!(worker.next_line(PATIENCE)?, "hello");
    Ok(())
}
