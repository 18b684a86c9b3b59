//! The page of `larder bench --html`, seen in a browser.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::sample;
use crate::servers::{Chromium, Postgres, Redis, is_running};
use crate::support::{Ran, larder, run};

const MEASURE: &str = include_str!("measure.js");

/// How a page is looked at.
#[derive(Clone, Copy)]
struct View {
    name: &'static str,
    width: u32,
    dark: bool,
    paper: bool,
}

const LIGHT: View = View { name: "light", width: 1280, dark: false, paper: false };
const DARK: View = View { name: "dark", width: 1280, dark: true, paper: false };
const PHONE: View = View { name: "phone", width: 390, dark: true, paper: false };
/// As wide as a sheet of A4 between margins of 14 mm. Paper is white whatever the screen is.
const PAPER: View = View { name: "paper", width: 688, dark: true, paper: true };

/// All that is drawn from a whole report.
const FIGURES: [&str; 7] =
    ["hit-ratio", "sources", "latency", "percentiles", "work", "load", "sweep"];

/// What a page is made of, and where.
struct Page {
    directory: tempfile::TempDir,
}

impl Page {
    async fn of(report: &Value) -> Page {
        let page = Page { directory: tempfile::tempdir().unwrap() };
        std::fs::write(page.path("report.json"), report.to_string()).unwrap();
        let ran = page.draw().await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        page
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn draw(&self) -> Ran {
        let paths = [self.path("report.json"), self.path("page.html")];
        let [from, html] = paths.map(|path| path.to_str().unwrap().to_owned());
        run(larder(["bench", "--from", &from, "--html", &html])).await
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("page.html").display())
    }
}

/// Opens the page, and measures it.
fn look(browser: &mut Chromium, page: &Page, view: View) -> Value {
    let View { name, width, dark, paper } = view;
    let scheme = if dark { "dark" } else { "light" };
    let device = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
    browser.call("Emulation.setDeviceMetricsOverride", device).unwrap();
    let media = json!({
        "media": if paper { "print" } else { "" },
        "features": [{ "name": "prefers-color-scheme", "value": scheme }],
    });
    browser.call("Emulation.setEmulatedMedia", media).unwrap();
    browser.open(&page.url()).unwrap();
    let seen = browser.evaluate(MEASURE).unwrap();

    let mut asked = 0;
    for event in browser.events() {
        match event["method"].as_str().unwrap() {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => {
                panic!("{name}: the console says {}", event["params"])
            }
            "Network.requestWillBeSent" => asked += 1,
            _ => {}
        }
    }
    assert_eq!(asked, 1, "{name}: it asks for more than itself");
    for what in ["overlaps", "cut", "faint"] {
        assert_eq!(seen[what], json!([]), "{name}: {what}");
    }
    assert_eq!(seen["wide"], 0, "{name}: it is wider than the screen");
    assert_eq!(seen["foreign"], 0, "{name}");
    assert!(seen["texts"].as_u64().unwrap() > 20, "{name}: there is nothing on it");
    // Labels of pictures, with what is above and below them.
    assert!(seen["smallest"].as_f64().unwrap() >= 10.0, "{name}: {}", seen["smallest"]);
    let background = seen["background"].as_f64().unwrap();
    if dark && !paper {
        assert!(background < 0.05, "{name}: {background}")
    } else {
        assert!(background > 0.95, "{name}: {background}")
    }
    for figure in seen["figures"].as_array().unwrap() {
        let number = |what: &str| figure[what].as_f64().unwrap();
        assert_eq!(figure["plots"], 1, "{name}: {figure}");
        assert!(number("width") >= 300.0 && number("height") >= 200.0, "{name}: {figure}");
        // A sheet is 1017 pixels high between its margins.
        assert!(number("tall") < 900.0, "{name}: {figure}");
        assert!(number("shapes") >= 1.0 && number("rows") >= 1.0, "{name}: {figure}");
        assert!(figure["said"].as_str().unwrap().len() > 20, "{name}: {figure}");
    }
    seen
}

fn figures(seen: &Value) -> Vec<&str> {
    seen["figures"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect()
}

/// Keeps what was seen where people can look at it.
fn keep(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-report-{name}"));
    std::fs::write(path, bytes).unwrap();
}

/// The average light of the picture of the page, from 0 to 255, as the browser itself sees it.
fn screenshot(browser: &mut Chromium, view: View) -> f64 {
    let all = json!({ "format": "png", "captureBeyondViewport": true });
    let shot = browser.call("Page.captureScreenshot", all).unwrap();
    let shot = shot["data"].as_str().unwrap();
    keep(&format!("{}.png", view.name), &BASE64_STANDARD.decode(shot).unwrap());
    // The page itself lets no picture in.
    browser.open("about:blank").unwrap();
    let average = browser.evaluate(&format!(
        "(async () => {{
           const image = new Image();
           image.src = 'data:image/png;base64,{shot}';
           await image.decode();
           const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
           canvas.drawImage(image, 0, 0);
           const {{ data }} = canvas.getImageData(0, 0, image.width, image.height);
           let sum = 0;
           for (let i = 0; i < data.length; i += 4) sum += data[i] + data[i + 1] + data[i + 2];
           return sum / (data.length / 4) / 3;
         }})()"
    ));
    average.unwrap().as_f64().unwrap()
}

/// On a thread where nothing else waits.
async fn browse<T: Send + 'static>(work: impl FnOnce(&mut Chromium) -> T + Send + 'static) -> T {
    let browsing = tokio::task::spawn_blocking(move || work(&mut Chromium::start().unwrap()));
    browsing.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_legible_on_every_screen_and_on_paper() {
    let page = Page::of(&sample::report()).await;
    browse(move |browser| {
        for view in [LIGHT, DARK, PHONE, PAPER] {
            let seen = look(browser, &page, view);
            assert_eq!(figures(&seen), FIGURES, "{}", view.name);
            assert!(seen["title"].as_str().unwrap().contains("less PostgreSQL time"));
            let paper = json!({ "preferCSSPageSize": true, "printBackground": true });
            if view.paper {
                let printed = browser.call("Page.printToPDF", paper).unwrap();
                let pdf = BASE64_STANDARD.decode(printed["data"].as_str().unwrap()).unwrap();
                assert!(pdf.starts_with(b"%PDF-"));
                keep("paper.pdf", &pdf);
                let text = String::from_utf8_lossy(&pdf);
                let sheets = text.matches("/Type /Page\n").count();
                assert!((3..=9).contains(&sheets), "{sheets} sheets");
                // A4 in points.
                assert!(text.contains("[0 0 594.95996 841.91998]"), "not A4");
            }
            let average = screenshot(browser, view);
            if view.dark && !view.paper {
                assert!(average < 60.0, "{}: {average}", view.name)
            } else {
                assert!(average > 225.0, "{}: {average}", view.name)
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_is_drawn_at_once_and_again_from_its_json() {
    let postgres = Postgres::shared().unwrap().database().await.unwrap();
    let redis = Redis::start().unwrap();
    let page = Page { directory: tempfile::tempdir().unwrap() };
    let arguments = "bench --reads 2000 --keys 30 --rows 2 --query-cost 1ms --sweep=10%,50%";
    let mut bench = larder(arguments.split(' '));
    bench.env("LARDER_REDIS", redis.url()).env("LARDER_POSTGRES", postgres.url());
    bench.arg("--json").arg(page.path("report.json")).arg("--html").arg(page.path("page.html"));
    let ran = run(bench).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let measured = std::fs::read_to_string(page.path("page.html")).unwrap();
    let ran = page.draw().await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(page.path("page.html")).unwrap(), measured);
    browse(move |browser| {
        for (name, view) in [("measured", LIGHT), ("measured-phone", PHONE)] {
            let seen = look(browser, &page, view);
            assert_eq!(figures(&seen), FIGURES);
            screenshot(browser, View { name, ..view });
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_from_the_report_does_nothing() {
    const HOSTILE: &str = "\"'></title></style></svg><script>document.title = 'taken'</script>\
                           <img src=x onerror=\"document.title = 'taken'\"> & so on";
    let mut report = sample::report();
    for path in [
        "/larder",
        "/begun",
        "/command",
        "/machine/system",
        "/machine/processor",
        "/servers/redis",
        "/servers/postgres",
        "/workload/trace",
        "/modes/3/first_error",
    ] {
        *report.pointer_mut(path).unwrap() = json!(HOSTILE);
    }
    report["workload"]["kind"] = json!("trace");
    report["modes"][3]["errors"] = json!(3);
    let page = Page::of(&report).await;
    browse(move |browser| {
        let seen = look(browser, &page, PHONE);
        assert!(seen["title"].as_str().unwrap().starts_with("larder bench"), "{}", seen["title"]);
        let said = browser.evaluate("document.body.innerText").unwrap();
        assert!(said.as_str().unwrap().matches(HOSTILE).count() >= 6, "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_may_be_called_anything() {
    let mut name = b"<img src=x onerror=\"document.title = 'taken'\"> & so on".to_vec();
    // Not all systems allow what is no text.
    if cfg!(target_os = "linux") {
        name.push(0xff);
    }
    let page = Page { directory: tempfile::tempdir().unwrap() };
    let trace = page.directory.path().join(OsStr::from_bytes(&name));
    std::fs::write(&trace, "1\n2\n3\n1\n2\n1\n").unwrap();
    let mut bench = larder(["bench", "--sweep-only", "--trace"]);
    bench.arg(trace).arg("--html").arg(page.path("page.html"));
    let ran = run(bench).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let name = String::from_utf8_lossy(&name).into_owned();
    browse(move |browser| {
        let seen = look(browser, &page, PHONE);
        assert_eq!((figures(&seen), &seen["title"]), (vec!["sweep"], &json!("larder bench")));
        let said = browser.evaluate("document.body.innerText").unwrap();
        assert!(said.as_str().unwrap().contains(&name), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_missing_leaves_a_page_that_holds_together() {
    let whole = sample::report;
    let with = |change: fn(&mut Value)| {
        let mut report = whole();
        change(&mut report);
        report
    };
    let reports: Vec<(&str, Value, &[&str])> = vec![
        ("no sweep", with(|it| it["sweep"] = Value::Null), &FIGURES[..6]),
        (
            "a sweep alone",
            with(|it| {
                it["modes"] = json!([]);
                it["servers"] = Value::Null;
                it["setup"] = Value::Null;
            }),
            &["sweep"],
        ),
        (
            "a sweep of one size",
            with(|it| {
                it["modes"] = json!([]);
                it["sweep"]["points"].as_array_mut().unwrap().truncate(1);
            }),
            &["sweep"],
        ),
        (
            "nothing at all",
            with(|it| {
                it["modes"] = json!([]);
                it["sweep"] = Value::Null;
                it["interrupted"] = json!(true);
            }),
            &[],
        ),
        (
            "no cache alone",
            with(|it| {
                it["modes"].as_array_mut().unwrap().truncate(1);
                it["sweep"] = Value::Null;
            }),
            &["latency", "percentiles", "work", "load"],
        ),
        (
            "both alone",
            with(|it| {
                let both = it["modes"][3].take();
                it["modes"] = json!([both]);
                it["modes"][0]["versus_none"] = Value::Null;
            }),
            &FIGURES,
        ),
        (
            "the last mode ended after half a second",
            with(|it| {
                it["interrupted"] = json!(true);
                let both = &mut it["modes"][3];
                both["ended"] = json!("interrupted");
                both["seconds"] = json!(0.5);
                both["series"].as_array_mut().unwrap().truncate(3);
            }),
            &FIGURES,
        ),
        (
            "a mode without an answer",
            with(|it| {
                let mut both = it["modes"][3].take();
                both["reads"] = json!(0);
                both["reads_per_second"] = json!(0.0);
                both["seconds"] = json!(0.0);
                both["series"] = json!([]);
                both["latency"] = json!([]);
                both["versus_none"] = Value::Null;
                it["modes"] = json!([both]);
                it["sweep"] = Value::Null;
            }),
            &[],
        ),
        (
            "violations",
            with(|it| {
                let currency = &mut it["modes"][3]["currency"];
                currency["violations"] = json!(2);
                let example = json!({
                    "source": "l1", "key": 7, "shown": 3, "acknowledged": 5,
                    "behind_ns": 1_200_000_000_u64, "own": false,
                });
                currency["examples"] = json!([example, example]);
                it["machine"]["debug_build"] = json!(true);
            }),
            &FIGURES,
        ),
    ];
    let mut pages = vec![];
    for (what, report, figures) in reports {
        pages.push((what, Page::of(&report).await, figures));
    }
    browse(move |browser| {
        for (what, page, expected) in pages {
            for view in [View { name: what, ..LIGHT }, View { name: what, ..PHONE }] {
                assert_eq!(figures(&look(browser, &page, view)), expected, "{what}");
            }
            let said = browser.evaluate("document.body.innerText").unwrap();
            let said = said.as_str().unwrap();
            for odd in ["NaN", "inf", "null"] {
                assert!(!said.contains(odd), "{what}: {said}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_read_leaves_the_page_that_was_there() {
    let page = Page::of(&sample::report()).await;
    let before = std::fs::read(page.path("page.html")).unwrap();
    std::fs::write(page.path("report.json"), "{\"version\": 1, ").unwrap();
    let ran = page.draw().await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("report.json") && ran.err.contains("no JSON"), "{}", ran.err);
    std::fs::remove_file(page.path("report.json")).unwrap();
    let ran = page.draw().await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("report.json"), "{}", ran.err);
    assert_eq!(std::fs::read(page.path("page.html")).unwrap(), before);
    assert_eq!(std::fs::read_dir(page.directory.path()).unwrap().count(), 1);

    std::fs::write(page.path("report.json"), sample::report().to_string()).unwrap();
    std::fs::remove_file(page.path("page.html")).unwrap();
    std::fs::create_dir(page.path("page.html")).unwrap();
    let ran = page.draw().await;
    assert_eq!(ran.code, 4);
    assert!(ran.err.contains("page.html"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_leaves_nothing_behind() {
    let (pid, directory) = browse(|browser| {
        assert!(is_running(browser.pid()) && browser.directory().exists());
        (browser.pid(), browser.directory().to_owned())
    })
    .await;
    assert!(!is_running(pid));
    assert!(!directory.exists(), "{}", directory.display());
}
