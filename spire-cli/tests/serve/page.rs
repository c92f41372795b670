//! The page in a real browser: drop a picture, move a slider, restore, compare, cancel, open a link.

use std::time::{Duration, Instant};

use headless_chrome::Tab;
use headless_chrome::protocol::cdp::Input::DispatchMouseEventTypeOption::{MouseMoved, MousePressed, MouseReleased};

use crate::browser::{Opened, browser_path, mouse, number, open, resize, value};
use crate::server::Server;

/// A text that would run as a script if it became markup.
const HOSTILE: &str = "<img src=x onerror=\"document.title=1\">";

/// Waits until an expression in the page is true.
fn wait(tab: &Tab, expression: &str) {
    let began = Instant::now();
    while value(tab, &format!("Boolean({expression})")) != true {
        let state = value(
            tab,
            "[document.querySelector('#problem').textContent, document.querySelector('#status').textContent]",
        );
        assert!(began.elapsed() < Duration::from_secs(60), "{expression}: {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(tab: &Tab, script: &str) {
    tab.evaluate(&format!("(async () => {{ {script} }})()"), true).unwrap();
}

fn text(tab: &Tab, expression: &str) -> String {
    value(tab, expression).as_str().unwrap().to_owned()
}

/// Opens the page and waits for its first picture.
fn start(browser: &std::path::Path, server: &Server) -> Opened {
    let opened = open(browser, &server.url);
    wait(&opened.tab, "document.documentElement.dataset.ready && !document.querySelector('#stage').hidden");
    opened
}

const PROMPT: &str = "document.querySelector('#restoration').value";
const HISTORY: &str = "document.querySelector('#history').children.length";
const RIGHT: &str = "document.querySelector('#right').selectedOptions[0].textContent";

#[test]
fn the_playground_works_in_a_browser() {
    let Some(browser) = browser_path() else {
        eprintln!(
            "SKIPPED: there is no Chromium or Chrome here (SPIRE_BROWSER names one): the playground was not opened"
        );
        return;
    };
    let server = Server::start(&[]);
    let Opened { tab, seen, .. } = &start(&browser, &server);
    let paint = number(tab, "performance.getEntriesByName('first-contentful-paint')[0].startTime");
    assert!(paint < 2000.0, "the first paint came after {paint} ms");

    // A sample comes with its truth and both prompts.
    assert_eq!(text(tab, RIGHT), "Clean");
    wait(tab, &format!("{PROMPT} === 'Deblur with sigma 2.0'"));
    wait(tab, "document.querySelector('#sliders .slider[data-kind=blur] input').checked");

    // A picture is dropped; its name is text.
    run(
        tab,
        &format!(
            "const canvas = document.createElement('canvas'); canvas.width = 48; canvas.height = 32; \
         canvas.getContext('2d').fillRect(0, 0, 24, 32); \
         const blob = await new Promise(done => canvas.toBlob(done)); const transfer = new DataTransfer(); \
         transfer.items.add(new File([blob], '{HOSTILE}.png', {{ type: 'image/png' }})); \
         document.querySelector('#drop').dispatchEvent(new DragEvent('drop', {{ dataTransfer: transfer, bubbles: true }}));"
        ),
    );
    wait(tab, "document.querySelector('#under').naturalWidth === 48");
    // It is small for the model; enlarged it is not.
    let enlarge = |by: u8| {
        let set = format!("const field = document.querySelector('#upscale'); field.value = {by};");
        run(tab, &format!("{set} field.dispatchEvent(new Event('input', {{ bubbles: true }}));"));
    };
    wait(tab, "/48×32 pixels.*128×128.*enlarge by 4/.test(document.querySelector('#small').textContent)");
    enlarge(4);
    wait(tab, "!document.querySelector('#small').textContent");
    enlarge(1);
    wait(tab, "document.querySelector('#small').textContent");
    assert_eq!(text(tab, "document.querySelector('#picture-name').textContent"), HOSTILE);

    // A slider writes the prompt, live; what lies outside the trained range is marked.
    tab.find_element("#remove-all").unwrap().click().unwrap();
    wait(tab, &format!("{PROMPT} === 'Remove all degradation'"));
    run(tab, "document.querySelector('#sliders .slider[data-kind=noise] input[type=range]').focus()");
    tab.press_key("Home").unwrap();
    wait(tab, &format!("{PROMPT} === 'Denoise with sigma 0.01'"));
    tab.press_key("End").unwrap();
    wait(tab, &format!("{PROMPT} === 'Denoise with sigma 0.50'"));
    wait(tab, "document.querySelector('#untrained').textContent.includes('outside the trained range')");
    // The number can be left out; the text moves the sliders back.
    tab.find_element("#sliders .slider[data-kind=noise] .amount").unwrap().click().unwrap();
    wait(tab, &format!("{PROMPT} === 'Denoise'"));
    let typed = "const text = document.querySelector('#restoration'); text.value = 'Deblur with sigma 3.1'; \
                 text.dispatchEvent(new Event('input'))";
    run(tab, typed);
    wait(tab, "document.querySelector('#sliders .slider[data-kind=blur] input[type=range]').valueAsNumber === 3.1");
    wait(tab, "!document.querySelector('#sliders .slider[data-kind=noise] input').checked");

    // Restore by the keyboard: predictions appear, then the result with its figures in the history.
    run(
        tab,
        "document.querySelector('#semantic').value = 'a <b>cup</b>'; document.querySelector('#steps').value = 40; \
              window.seen = new Set(); new MutationObserver(() => window.seen.add(document.querySelector('#under').src)) \
              .observe(document.querySelector('#under'), { attributes: true });",
    );
    run(tab, "document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true }))");
    wait(tab, "document.querySelector('#status').textContent.includes('of 40')");
    wait(tab, &format!("{HISTORY} === 1"));
    let predictions = number(tab, "[...window.seen].filter(src => src.includes('/pictures/0?')).length");
    assert!(predictions >= 2.0, "{predictions} predictions were shown");
    assert_eq!(text(tab, RIGHT), "Result 1");
    assert_eq!(number(tab, "document.querySelectorAll('#history b, #picture-name img').length"), 0.0);

    // Compare: the slider by mouse and keys, zoom by whole factors.
    run(tab, "document.querySelector('#stage').scrollIntoView({ block: 'center', behavior: 'instant' })");
    let place = value(
        tab,
        "(box => [box.left, box.top, box.width, box.height])(document.querySelector('#stage').getBoundingClientRect())",
    );
    let [left, top, width, height] = [0, 1, 2, 3].map(|i| place[i].as_f64().unwrap());
    assert_eq!((width / 48.0).fract(), 0.0, "pixels are whole: {width}");
    let y = top + height / 2.0;
    mouse(tab, MousePressed, true, left + width * 0.5, y);
    mouse(tab, MouseMoved, true, left + width * 0.25, y);
    mouse(tab, MouseReleased, false, left + width * 0.25, y);
    let cut = "document.querySelector('#cut').getAttribute('aria-valuenow')";
    assert_eq!(value(tab, cut), "25");
    for (key, expected) in [("ArrowRight", "27"), ("Home", "0"), ("End", "100")] {
        tab.press_key(key).unwrap();
        assert_eq!(value(tab, cut), expected, "{key}");
    }
    let before = text(tab, "document.querySelector('#zoom').textContent");
    tab.find_element("#zoom-out").unwrap().click().unwrap();
    assert_ne!(text(tab, "document.querySelector('#zoom').textContent"), before);

    // Cancel by the button: the page says so, and the server has nothing left to do.
    run(tab, "document.querySelector('#steps').value = 250; document.querySelector('#variants').value = 16;");
    tab.find_element("#go").unwrap().click().unwrap();
    wait(tab, "document.querySelector('#status').textContent.includes('step')");
    tab.find_element("#cancel").unwrap().click().unwrap();
    wait(tab, "document.querySelector('#problem').textContent === 'Cancelled.'");
    assert_eq!(number(tab, HISTORY), 1.0);
    assert_eq!(server.get("/api/models").json()["waiting"], 0);

    // A walk fills its grid; a cell goes onto the stage.
    run(
        tab,
        "document.querySelector('#steps').value = 3; document.querySelector('#variants').value = 1; \
              document.querySelector('input[value=semantics]').click();",
    );
    tab.find_element("#go").unwrap().click().unwrap();
    wait(tab, &format!("{HISTORY} === 2"));
    assert_eq!(number(tab, "document.querySelectorAll('#cells button:not(.coming)').length"), 4.0);
    run(tab, "document.querySelectorAll('#cells button')[1].click()");
    assert_eq!(text(tab, RIGHT), "Result 2: “a lion”");

    // A walk over two other tasks, and the command that repeats it.
    run(
        tab,
        "document.querySelector('input[value=strengths]').click(); \
              const choose = (id, task) => { const box = document.querySelector(id); box.value = task; \
                box.dispatchEvent(new Event('input', { bubbles: true })); }; \
              choose('#walk-row-task', 'upsample'); choose('#walk-column-task', 'dejpeg'); \
              choose('#walk-rows', '2'); choose('#walk-columns', '2'); choose('#walk-column-most', '40'); \
              navigator.clipboard.writeText = async text => { window.copied = text };",
    );
    tab.find_element("#go").unwrap().click().unwrap();
    wait(tab, &format!("{HISTORY} === 3"));
    assert_eq!(number(tab, "document.querySelectorAll('#cells button:not(.coming)').length"), 4.0);
    tab.find_element("#copy-command").unwrap().click().unwrap();
    wait(tab, "window.copied");
    let walked = text(tab, "window.copied");
    assert!(walked.contains("spire walk") && walked.contains("--upsample 0,8 --dejpeg 0,40"), "{walked}");
    run(tab, "window.copied = ''");

    // The history brings the settings back.
    run(tab, "document.querySelectorAll('#history button')[2].click()");
    wait(
        tab,
        "document.querySelector('input[value=restore]').checked && document.querySelector('#steps').value === '40'",
    );
    assert_eq!(text(tab, RIGHT), "Result 1");

    // The command names the file, quoted for a shell.
    run(tab, "navigator.clipboard.writeText = async text => { window.copied = text };");
    tab.find_element("#copy-command").unwrap().click().unwrap();
    wait(tab, "window.copied");
    let command = text(tab, "window.copied");
    assert!(command.starts_with(&format!("spire restore '{HOSTILE}.png' -o '{HOSTILE}-restored.png'")), "{command}");
    assert!(
        command.contains("--semantic 'a <b>cup</b>' --restoration 'Deblur with sigma 3.1' --steps 40"),
        "{command}"
    );

    // No request leaves the server, no error is logged, on a phone nothing is wider than the screen.
    resize(tab, 400, 800);
    assert!(number(tab, "document.documentElement.scrollWidth") <= 400.0);
    assert_eq!(value(tab, "document.title"), "SPIRE playground");
    let requests = seen.requests.lock().unwrap();
    let own = format!("http://{}/", server.address);
    let outside = requests.iter().filter(|url| !url.starts_with(&own) && !url.starts_with("blob:"));
    assert_eq!(outside.count(), 0, "{requests:?}");
    assert_eq!(*seen.errors.lock().unwrap(), [""; 0]);
}

#[test]
fn a_link_brings_everything_back() {
    let Some(browser) = browser_path() else {
        eprintln!("SKIPPED: there is no Chromium or Chrome here (SPIRE_BROWSER names one): links were not opened");
        return;
    };
    let server = Server::start(&[]);
    let link = {
        let Opened { tab, .. } = &start(&browser, &server);
        run(tab, "document.querySelectorAll('#samples button')[1].click()");
        wait(tab, &format!("{PROMPT}.startsWith('Denoise')"));
        run(
            tab,
            "document.querySelector('#guidance').value = 3.5; document.querySelector('#seed').value = 11; \
                  document.querySelector('#start').value = 'picture'; document.querySelector('#control_scale').value = 0.8; \
                  document.querySelector('#semantic').value = 'a panda & \"friends\"'; \
                  navigator.clipboard.writeText = async text => { window.copied = text };",
        );
        tab.find_element("#copy-link").unwrap().click().unwrap();
        wait(tab, "window.copied");
        text(tab, "window.copied")
    };
    let Opened { tab, seen, .. } = &open(&browser, &link);
    wait(tab, "document.querySelector('#semantic').value === 'a panda & \"friends\"'");
    wait(tab, "document.querySelectorAll('#samples button')[1].getAttribute('aria-pressed') === 'true'");
    wait(tab, &format!("{PROMPT} === 'Denoise with sigma 0.15'"));
    wait(tab, "document.querySelector('#sliders .slider[data-kind=noise] input').checked");
    assert_eq!(
        value(tab, "['guidance', 'seed', 'start', 'control_scale'].map(id => document.getElementById(id).value)"),
        serde_json::json!(["3.5", "11", "picture", "0.8"])
    );
    assert_eq!(*seen.errors.lock().unwrap(), [""; 0]);
}
