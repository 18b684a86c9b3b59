//! `larder watch`, on a terminal and without one.

use crate::servers::Redis;
use crate::support::{larder, namespace, run};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_says_what_to_use_instead() {
    let redis = Redis::shared().unwrap().url();
    let ran = run(larder(["watch", "--redis", &redis, "--namespace", &namespace()])).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("larder stats --interval"), "{}", ran.err);
}

/// `script` of util-linux gives a command a terminal of its own; elsewhere it is another program.
#[cfg(target_os = "linux")]
mod on_a_terminal {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// The command on a terminal of 80 columns, which is asked afterwards for its settings. It is
    /// ended if it does not end by itself, and with it whoever reads its screen.
    fn watch(namespace: &str) -> Child {
        let (larder, redis) = (env!("CARGO_BIN_EXE_larder"), Redis::shared().unwrap().url());
        let line = format!(
            "stty cols 80 rows 24; timeout --foreground 60 {larder} watch --interval 100ms --redis {redis} \
             --namespace {namespace}; echo code $?; stty -a"
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "xterm");
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        piped.spawn().expect("script of util-linux is there")
    }

    /// Reads the screen until it shows these words.
    fn until(screen: &mut impl Read, words: &str) {
        let (mut seen, mut some) = (vec![], [0; 4096]);
        while !String::from_utf8_lossy(&seen).contains(words) {
            let read = screen.read(&mut some).unwrap();
            let shown = String::from_utf8_lossy(&seen);
            assert!(read > 0, "it ended before it showed {words:?}: {shown}");
            seen.extend(&some[..read]);
        }
    }

    /// What it leaves behind: the code, and a terminal as it was.
    fn left_behind(mut screen: impl Read) -> String {
        let mut rest = vec![];
        screen.read_to_end(&mut rest).unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_fleet_is_shown_and_the_terminal_is_as_it_was_afterwards() {
        let namespace = namespace();
        let _here = crate::stats::publisher(&namespace, &[("revenue", 5)]).await;
        for end in [&b"q"[..], b"\x03"] {
            let namespace = namespace.clone();
            let rest = tokio::task::spawn_blocking(move || {
                let mut child = watch(&namespace);
                let mut screen = child.stdout.take().unwrap();
                until(&mut screen, "revenue");
                // Kept until the end: `script` ends with its input.
                let mut keys = child.stdin.take().unwrap();
                keys.write_all(end).unwrap();
                keys.flush().unwrap();
                let rest = left_behind(screen);
                child.wait().unwrap();
                rest
            });
            let rest = rest.await.unwrap();
            // The usual screen is back, with its cursor, and lines are read as lines.
            for words in ["\x1b[?1049l", "\x1b[?25h", "code 0", " icanon", " echo"] {
                assert!(rest.contains(words), "{words:?}: {rest:?}");
            }
        }
    }
}
