//! A headless Chromium, and what happens in its page.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use headless_chrome::protocol::cdp::Input::DispatchMouseEventTypeOption::{self, MouseReleased};
use headless_chrome::protocol::cdp::types::Event;
use headless_chrome::protocol::cdp::{Emulation, Input, Network};
use headless_chrome::{Browser, LaunchOptions, Tab};
use serde_json::Value;

/// `SPIRE_BROWSER`, or a usual path of Chromium or Chrome.
pub fn browser_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SPIRE_BROWSER") {
        return Some(path.into());
    }
    ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
        .and_then(|name| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
        })
}

/// The errors and requests of the page.
#[derive(Default)]
pub struct Seen {
    pub errors: Mutex<Vec<String>>,
    pub requests: Mutex<Vec<String>>,
}

pub struct Opened {
    pub tab: Arc<Tab>,
    pub seen: Arc<Seen>,
    _browser: Browser,
}

/// Opens an address and records its errors and requests from the start.
pub fn open(browser: &Path, address: &str) -> Opened {
    // Chromium's sandbox does not work for root.
    let options = LaunchOptions::default_builder()
        .path(Some(browser.to_owned()))
        .sandbox(false)
        .window_size(Some((1280, 900)))
        .build()
        .unwrap();
    let started = Browser::new(options).unwrap();
    let tab = started.new_tab().unwrap();
    let seen = Arc::new(Seen::default());
    tab.enable_log().unwrap();
    tab.enable_runtime().unwrap();
    let watch = Network::Enable {
        max_total_buffer_size: None,
        max_resource_buffer_size: None,
        max_post_data_size: None,
        report_direct_socket_traffic: None,
        enable_durable_messages: None,
    };
    tab.call_method(watch).unwrap();
    let noted = seen.clone();
    tab.add_event_listener(Arc::new(move |event: &Event| match event {
        Event::RuntimeExceptionThrown(thrown) => noted.errors.lock().unwrap().push(format!("{thrown:?}")),
        Event::LogEntryAdded(logged) => noted.errors.lock().unwrap().push(format!("{logged:?}")),
        Event::RuntimeConsoleAPICalled(called) => noted.errors.lock().unwrap().push(format!("{called:?}")),
        Event::NetworkRequestWillBeSent(asked) => noted.requests.lock().unwrap().push(asked.params.request.url.clone()),
        _ => {}
    }))
    .unwrap();
    tab.navigate_to(address).unwrap().wait_until_navigated().unwrap();
    Opened { tab, seen, _browser: started }
}

/// The value of an expression in the page.
pub fn value(tab: &Tab, expression: &str) -> Value {
    let text = tab.evaluate(&format!("JSON.stringify({expression})"), false).unwrap().value;
    let Some(Value::String(text)) = text else { panic!("{expression} has no value") };
    serde_json::from_str(&text).unwrap()
}

/// The value of an expression that is a number.
pub fn number(tab: &Tab, expression: &str) -> f64 {
    value(tab, expression).as_f64().unwrap()
}

/// Sends a mouse event, with the left button down if `held`.
pub fn mouse(tab: &Tab, kind: DispatchMouseEventTypeOption, held: bool, x: f64, y: f64) {
    let left = held || kind == MouseReleased;
    let event = Input::DispatchMouseEvent {
        Type: kind,
        x,
        y,
        button: Some(if left { Input::MouseButton::Left } else { Input::MouseButton::None }),
        buttons: Some(u32::from(held)),
        click_count: Some(1),
        modifiers: None,
        timestamp: None,
        force: None,
        tangential_pressure: None,
        tilt_x: None,
        tilt_y: None,
        twist: None,
        delta_x: None,
        delta_y: None,
        pointer_Type: None,
    };
    tab.call_method(event).unwrap();
}

/// Makes the page as large as a phone's screen.
pub fn resize(tab: &Tab, width: u32, height: u32) {
    let phone = Emulation::SetDeviceMetricsOverride {
        width,
        height,
        device_scale_factor: 2.0,
        mobile: true,
        scale: None,
        screen_width: None,
        screen_height: None,
        position_x: None,
        position_y: None,
        dont_set_visible_size: None,
        screen_orientation: None,
        viewport: None,
        display_feature: None,
        device_posture: None,
    };
    tab.call_method(phone).unwrap();
}
