//! A process of a service, and requests to it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;
use test_servers::Worker;

use crate::PATIENCE;

/// Killed when it is dropped, and when the test ends in another way.
pub struct Service {
    worker: Mutex<Worker>,
    address: SocketAddr,
}

impl Service {
    pub(crate) fn start(program: &Path, variables: &[(&str, &str)]) -> Service {
        let mut words: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.push(program.to_str().unwrap().to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // `env` becomes the service.
        let mut worker = Worker::run(Path::new("/usr/bin/env"), &words).unwrap();
        let line = worker.next_line(PATIENCE).unwrap();
        let address = line.strip_prefix("listening on ").and_then(|it| it.parse().ok());
        let worker = Mutex::new(worker);
        Service { worker, address: address.unwrap_or_else(|| panic!("it said {line:?}")) }
    }

    pub fn get(&self, path: &str, token: &str) -> Reply {
        self.begin(path, token).read().unwrap()
    }

    pub fn post(&self, path: &str, token: &str, body: &Value) -> Reply {
        self.request("POST", path, token, &body.to_string()).and_then(Request::read).unwrap()
    }

    /// Sends a request, and does not wait for the reply.
    pub fn begin(&self, path: &str, token: &str) -> Request {
        self.request("GET", path, token, "").unwrap()
    }

    fn request(&self, method: &str, path: &str, token: &str, body: &str) -> io::Result<Request> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n");
        if !token.is_empty() {
            request += &format!("authorization: Bearer {token}\r\n");
        }
        if method == "POST" {
            let length = body.len();
            request += &format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        }
        write!(stream, "{request}\r\n{body}")?;
        Ok(Request(stream))
    }

    pub fn is_listening(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }

    /// As an orchestrator ends it.
    pub fn terminate(&self) {
        let pid = self.worker.lock().unwrap().pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub fn ends_well(&mut self) {
        assert!(self.worker.get_mut().unwrap().finish().unwrap().success());
    }
}

/// A request that has been sent.
pub struct Request(TcpStream);

impl Request {
    pub fn read(mut self) -> io::Result<Reply> {
        let mut text = String::new();
        self.0.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(it, _)| it.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value)
    }

    /// Where a report came from, as the service says.
    pub fn origin(&self) -> &str {
        assert_eq!(self.status, 200, "{}", self.body);
        self.header("x-cache").unwrap_or_else(|| panic!("no origin in {}", self.head))
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}
