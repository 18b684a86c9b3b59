//! A private browser, to test pages as people see them.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ChildStdin;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use serde_json::{Value, json};

use super::guard::{Directory, Process};
use super::{PATIENCE, ServerError, find, template};

/// Without a window, without anything of the user's, and without calls home.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--remote-debugging-pipe",
    // It needs privileges that a container does not have; the pages are our own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
];

/// Its protocol uses two more pipes, numbers 3 and 4. It exits when they are closed.
const PIPES: &str = r#"exec 3<&0 4>&1 </dev/null >&2; exec "$@""#;

/// Chromium with one page, controlled by the DevTools protocol.
#[derive(Debug)]
pub struct Chromium {
    // Fields are dropped in this order: first the browser, then its directory.
    process: Process,
    input: ChildStdin,
    messages: Receiver<Value>,
    directory: Directory,
    session: Option<String>,
    last: u64,
    events: Vec<Value>,
}

impl Chromium {
    /// Starts it with an empty page.
    pub fn start() -> Result<Self, ServerError> {
        let program = find::chromium()?;
        let directory = Directory::new(&template::temporary())?;
        let home = directory.path().to_string_lossy().into_owned();
        let profile = format!("--user-data-dir={home}/profile");
        let program_name = program.to_string_lossy();
        let arguments = ["-c", PIPES, "larder-chromium", &program_name]
            .into_iter()
            .chain(ARGUMENTS)
            .chain([profile.as_str()]);
        let environment = [
            ("HOME", home.as_str()),
            ("XDG_CONFIG_HOME", home.as_str()),
            ("XDG_CACHE_HOME", home.as_str()),
        ];
        let (process, input, output) = Process::start_talking(
            Path::new("/bin/sh"),
            &arguments.collect::<Vec<_>>(),
            &environment,
            &directory,
        )?;
        let (send, messages) = mpsc::channel();
        // It ends with the browser.
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut message = vec![];
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                if message.last() == Some(&0) {
                    message.pop();
                }
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if send.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let (session, events) = (None, vec![]);
        let mut browser = Self { process, input, messages, directory, session, last: 0, events };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded. Earlier [events](Self::events) are forgotten.
    pub fn open(&mut self, url: &str) -> Result<(), ServerError> {
        self.events.clear();
        let gone = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = gone["errorText"].as_str() {
            return Err(ServerError::new(format!("open {url}: {error}")));
        }
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let message = self.next(&format!("open {url}"))?;
            self.events.push(message);
        }
        Ok(())
    }

    /// Runs a script in the page and returns its result. A promise is awaited.
    pub fn evaluate(&mut self, script: &str) -> Result<Value, ServerError> {
        let options = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let mut outcome = self.call("Runtime.evaluate", options)?;
        match outcome.get("exceptionDetails") {
            Some(details) => Err(ServerError::new(format!("run a script in the page: {details}"))),
            None => Ok(outcome["result"]["value"].take()),
        }
    }

    /// Calls a method of the DevTools protocol and returns its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value, ServerError> {
        self.send(method, parameters).map_err(|error| {
            ServerError::new(format!("call {method} of Chromium: {error}{}", self.process.log()))
        })?;
        loop {
            let mut answer = self.next(&format!("call {method} of Chromium"))?;
            match answer["id"].as_u64() {
                Some(id) if id == self.last => match answer.get("error") {
                    Some(error) => return Err(ServerError::new(format!("call {method}: {error}"))),
                    None => return Ok(answer["result"].take()),
                },
                Some(_) => {}
                None => self.events.push(answer),
            }
        }
    }

    /// The events since the page was opened: `method` and `params` of each.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The directory of all its files. It is removed with the browser.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn send(&mut self, method: &str, parameters: Value) -> io::Result<()> {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes)
    }

    fn next(&self, attempt: &str) -> Result<Value, ServerError> {
        let log = || self.process.log();
        self.messages.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                ServerError::new(format!("{attempt}: no answer within {PATIENCE:?}{}", log()))
            }
            RecvTimeoutError::Disconnected => {
                ServerError::new(format!("{attempt}: it has ended{}", log()))
            }
        })
    }
}

impl Drop for Chromium {
    /// The process may be a script that started the browser, as on Debian. To kill the script would
    /// leave a browser that writes into the directory until it notices that its pipes are closed.
    fn drop(&mut self) {
        self.session = None;
        if self.send("Browser.close", json!({})).is_ok() {
            // Until its own end of the pipe is closed.
            while self.messages.recv_timeout(PATIENCE).is_ok() {}
        }
    }
}
