//! `--help`, the manual pages and the completions.

use crate::support::{larder, run};

#[tokio::test(flavor = "multi_thread")]
async fn help_tells_the_exit_codes_and_no_secret() {
    let mut command = larder(["--help"]);
    command.env("LARDER_REDIS", "redis://:hunter2@host");
    let ran = run(command).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("Exit codes:") && ran.out.contains("LARDER_REDIS"), "{}", ran.out);
    assert!(!ran.out.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shell_gets_completions_that_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(larder(["completions", shell])).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
        assert!(ran.out.contains("invalidate"), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_manual_page_for_each_subcommand() {
    let directory = tempfile::tempdir().unwrap();
    let ran = run(larder(["man", "--all", directory.path().to_str().unwrap()])).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let page = std::fs::read_to_string(directory.path().join("larder-invalidate.1")).unwrap();
    assert!(page.contains("larder\\-invalidate") && page.contains("TAG"), "{page}");
    let ran = run(larder(["man"])).await;
    assert!(ran.out.contains("Exit codes"), "{}", ran.out);
    let ran = run(larder(["man", "--all", "/nowhere/at/all"])).await;
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("/nowhere/at/all"), "{}", ran.err);
}
