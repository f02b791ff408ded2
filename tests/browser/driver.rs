//! A scripted browser: Chromium, driven by chromedriver with the few commands of WebDriver that are needed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest time until a screenshot or a reply on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The folder of screenshots.
pub(crate) const PICTURES: &str = env!("CARGO_TARGET_TMPDIR");

/// A window of a separate browser. A drop ends both processes.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: PathBuf,
}

/// The path of a program.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "`{name}` is missing, and the playground's page is tested in a real browser: install Debian's packages \
                 `chromium` and `chromium-driver`, as tests/run.sh does"
            )
        })
}

impl Browser {
    pub(crate) fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (chromium, chromedriver) = (program("chromium"), program("chromedriver"));
        let number = COUNT.fetch_add(1, Relaxed);
        let profile = Path::new(PICTURES).join(format!("chromium-{}-{number}", std::process::id()));
        let mut driver = Command::new(chromedriver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver runs");
        let lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let mut browser = Self {
            driver,
            port: port.expect("chromedriver says its port"),
            session: String::new(),
            profile,
        };
        let profile = format!("--user-data-dir={}", browser.profile.display());
        let options = json!({
            "binary": chromium,
            // No sandbox: root and many containers have none. Only our own page is opened.
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
                     "--no-first-run", "--disable-background-networking", "--window-size=1400,1000", profile],
        });
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": 60_000, "pageLoad": 60_000},
        });
        let made = browser.call(
            "POST",
            "/session",
            json!({"capabilities": {"alwaysMatch": wanted}}),
        );
        browser.session = format!(
            "/session/{}",
            made["sessionId"].as_str().expect("a session")
        );
        browser
    }

    /// One command, over a new connection.
    fn try_call(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        let mut answer = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while answer.read_line(&mut line)? > 2 {
            let field = line.to_ascii_lowercase();
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        let mut answer: Value = serde_json::from_slice(&body)?;
        Ok(answer["value"].take())
    }

    fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.try_call(method, path, &body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!(
            answer["error"].is_null(),
            "{method} {path} {body}: {answer}"
        );
        answer
    }

    fn post(&self, command: &str, body: Value) -> Value {
        self.call("POST", &format!("{}{command}", self.session), body)
    }

    /// A command of Chromium's own protocol.
    pub(crate) fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.post("/goog/cdp/execute", body)
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", json!({"url": url}));
    }

    /// The return value of a script, which may be a promise.
    pub(crate) fn run(&self, script: &str, arguments: Value) -> Value {
        let body = json!({"script": script, "args": [arguments]});
        self.post("/execute/sync", body)
    }

    /// The value of an expression.
    pub(crate) fn get(&self, expression: &str) -> Value {
        self.run(&format!("return {expression}"), Value::Null)
    }

    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.run(
            "return document.querySelector(arguments[0]).textContent",
            selector.into(),
        );
        text.as_str().expect("text").to_owned()
    }

    /// Polls until the condition holds.
    pub(crate) fn until(&self, what: &str) {
        let start = Instant::now();
        while self.get(what) != json!(true) {
            assert!(
                start.elapsed() < TIMEOUT,
                "timed out: {what}\nthe page: {}",
                self.text("main")
            );
            sleep(Duration::from_millis(50));
        }
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post(
            "/element",
            json!({"using": "css selector", "value": selector}),
        );
        let id = found.as_object().and_then(|found| found.values().next());
        let id = id.and_then(Value::as_str).expect("an element");
        format!("/element/{id}")
    }

    /// A mouse click.
    pub(crate) fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/click"), json!({}));
    }

    /// Replaces the text of a field by typing.
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/clear"), json!({}));
        self.post(&format!("{element}/value"), json!({"text": text}));
    }

    /// Presses a key in the focused element.
    pub(crate) fn press(&self, key: &str) {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let keys = json!({"type": "key", "id": "keys", "actions": strokes});
        self.post("/actions", json!({"actions": [keys]}));
    }

    /// The messages of one log since the last call.
    pub(crate) fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("/se/log", json!({"type": kind}));
        log.as_array().expect("a list").clone()
    }

    /// Sets the width of the page, its scale, and the colour scheme.
    pub(crate) fn look(&self, width: u32, scale: f64, scheme: &str) {
        let size =
            json!({"width": width, "height": 1_000, "deviceScaleFactor": scale, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", scheme);
        self.until(&format!("innerWidth === {width}"));
    }

    /// Saves the whole page as a file in the target folder.
    pub(crate) fn picture(&self, name: &str) {
        let shot = self.devtools(
            "Page.captureScreenshot",
            json!({"format": "png", "captureBeyondViewport": true}),
        );
        let path = Path::new(PICTURES).join(format!("{name}.png"));
        let data = base64(shot["data"].as_str().expect("a picture"));
        std::fs::write(path, data).expect("a file in the target folder");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session ends the browser. Killing the driver alone would leave it running.
        if !self.session.is_empty() {
            let _ = self.try_call("DELETE", &self.session, &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = (0..4).fold(0, |bits: u32, index| {
            bits << 6
                | four
                    .get(index)
                    .map_or(0, |letter| u32::from(value(*letter)))
        });
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}
