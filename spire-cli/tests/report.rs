//! `report.html` in a real browser: its controls work, it makes no requests, and injected scripts do not run.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use browser::{Opened, browser_path, mouse, number, open, resize, value};
use common::{error, ok, spire};
use headless_chrome::Tab;
use headless_chrome::protocol::cdp::Input::DispatchMouseEventTypeOption::{MouseMoved, MousePressed, MouseReleased};
use tempfile::TempDir;

/// A name, title and caption that contains a script.
const HOSTILE: &str = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>\"'";

/// Five pictures of the illustrated world with hostile names, captions and titles, laid out as the paper's Table 5.
fn evaluation(scratch: &Path) -> PathBuf {
    let pictures = scratch.join("pictures");
    fs::create_dir(&pictures).unwrap();
    let degraded = |i: usize| {
        let place = pictures.join(format!("{i}.png"));
        let prompt = format!("Denoise with sigma 0.{i}5");
        ok(spire(&["degrade", "docs/figures/tiny.png", "--prompt", &prompt, "-o", place.to_str().unwrap()]));
        fs::write(place.with_extension("txt"), format!("{HOSTILE} number {i}")).unwrap();
    };
    (0..5).for_each(degraded);
    let recipe = scratch.join("recipe.toml");
    let text = format!(
        "name = \"coco-parameterized\"\nsize = 64\n[source]\nkind = \"folder\"\npath = {pictures:?}\n\
         [degradation]\nkind = \"parameterized\"\n"
    );
    fs::write(&recipe, text).unwrap();
    let hostile = toml(HOSTILE);
    let text = format!(
        "name = \"report\"\nclip = \"assets/tiny\"\npaper_table = 5\nagainst = \"Degraded\"\noutput = {output:?}\n[sampling]\nsteps = 2\n\
         [[benchmarks]]\ntitle = {hostile}\nfolder = {folder:?}\nrecipe = {recipe:?}\n\
         [[methods]]\nname = \"Degraded\"\nkind = \"input\"\n\
         [[methods]]\nname = {hostile}\nbase = \"assets/tiny\"\ncontrol = \"assets/tiny/control\"\n\
         captions = \"unmatched\"\nprompt = \"Deblur with sigma 0.6\"\n\
         [[methods]]\nname = \"Clean pictures\"\nkind = \"folder\"\nfolder = {clean:?}\n",
        output = scratch.join("out"),
        folder = scratch.join("coco-parameterized"),
        clean = scratch.join("coco-parameterized/clean"),
    );
    let config = scratch.join("eval.toml");
    fs::write(&config, text).unwrap();
    ok(spire(&["eval", config.to_str().unwrap()]));
    scratch.join("out/report.html")
}

/// A TOML string.
fn toml(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The part of the upper picture that is cut away, in percent of its width from the right.
fn cut_away(tab: &Tab) -> f64 {
    let inset = value(tab, "getComputedStyle(document.querySelector('.stage .over')).clipPath");
    let inset = inset.as_str().unwrap().to_owned();
    // "inset(0px calc(100% - 50%) 0px 0px)" or with the percents added up.
    let numbers: Vec<f64> =
        inset.split(|c: char| !(c.is_ascii_digit() || c == '.')).filter_map(|part| part.parse().ok()).collect();
    match inset.contains("calc") {
        true => 100.0 - numbers[2],
        false => numbers[1],
    }
}

#[test]
fn the_report_works_in_a_browser() {
    let Some(browser) = browser_path() else {
        eprintln!("SKIPPED: there is no Chromium or Chrome here (SPIRE_BROWSER names one): report.html was not opened");
        return;
    };
    let scratch = TempDir::new().unwrap();
    let report = evaluation(scratch.path());
    let Opened { tab, seen, .. } = &open(&browser, &format!("file://{}", report.display()));

    // The tables: the paper's layout with its quoted rows, then figures with intervals, then differences.
    assert_eq!(number(tab, "document.querySelectorAll('table.figures').length"), 3.0);
    assert_eq!(number(tab, "document.querySelectorAll('#paper tr.quoted').length"), 4.0);
    assert_eq!(number(tab, "document.querySelectorAll('#paper tbody tr:not(.quoted)').length"), 3.0);
    assert!(number(tab, "document.querySelectorAll('.range').length") >= 8.0);
    assert!(number(tab, "document.querySelectorAll('.plots svg circle').length") >= 8.0);
    let images = value(tab, "[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.src.slice(0, 5)])");
    let images = images.as_array().unwrap();
    assert!(
        images.len() >= 5 * 4 + 2 && images.iter().all(|image| *image == serde_json::json!([true, "data:"])),
        "{images:?}"
    );

    // Hostile names are shown as text and have not run.
    assert_eq!(value(tab, "document.querySelector('.benchmark h2').textContent"), HOSTILE);
    assert_eq!(
        value(tab, "document.querySelectorAll('#paper tbody tr:not(.quoted) th')[1].textContent.trim()"),
        HOSTILE
    );
    assert_eq!(number(tab, "document.scripts.length"), 2.0);
    assert_eq!(number(tab, "document.querySelectorAll('img:not([src^=\"data:\"])').length"), 0.0);
    assert_eq!(value(tab, "document.title"), "report: evaluation");
    // The prompts of a method: another picture's caption, and the fixed restoration prompt.
    let choose = |side: &str, index: usize| {
        let select = format!("document.querySelector('select.{side}')");
        let set = format!("{select}.selectedIndex = {index}; {select}.dispatchEvent(new Event('change'))");
        tab.evaluate(&set, false).unwrap();
    };
    choose("right", 1);
    let told = value(tab, "document.querySelector('.told').innerText");
    let told = told.as_str().unwrap();
    let own = value(tab, "document.querySelector('.gallery .case figcaption').textContent");
    assert!(told.contains("Deblur with sigma 0.6") && told.contains("<script>"), "{told}");
    let number_of = |text: &str| text.split("number ").nth(1).map(|rest| rest.chars().next());
    assert_ne!(number_of(told), number_of(own.as_str().unwrap()), "{told} beside {own}");

    // The slider: a drag of the mouse, then keys.
    tab.evaluate("document.querySelector('.stage').scrollIntoView({block: 'center', behavior: 'instant'})", false)
        .unwrap();
    let place = value(
        tab,
        "(box => [box.left, box.top, box.width, box.height])(document.querySelector('.stage').getBoundingClientRect())",
    );
    let [left, top, width, height] = [0, 1, 2, 3].map(|i| place[i].as_f64().unwrap());
    assert!((cut_away(tab) - 50.0).abs() < 1.0, "{}", cut_away(tab));
    let y = top + height / 2.0;
    mouse(tab, MousePressed, true, left + width * 0.5, y);
    mouse(tab, MouseMoved, true, left + width * 0.4, y);
    mouse(tab, MouseMoved, true, left + width * 0.2, y);
    mouse(tab, MouseReleased, false, left + width * 0.2, y);
    assert!((cut_away(tab) - 80.0).abs() < 1.5, "{}", cut_away(tab));
    mouse(tab, MouseMoved, false, left + width * 0.9, y);
    assert!((cut_away(tab) - 80.0).abs() < 1.5, "the button is up: {}", cut_away(tab));
    for (key, expected) in
        [("ArrowRight", 78.0), ("ArrowRight", 76.0), ("ArrowLeft", 78.0), ("End", 0.0), ("Home", 100.0)]
    {
        tab.press_key(key).unwrap();
        assert!((cut_away(tab) - expected).abs() < 1.5, "{key}: {}", cut_away(tab));
    }
    assert_eq!(value(tab, "document.querySelector('.cut').getAttribute('aria-valuenow')"), "0");

    // The controls change the pictures.
    let before = value(tab, "document.querySelector('.over').src");
    tab.find_element(".next").unwrap().click().unwrap();
    assert_ne!(value(tab, "document.querySelector('.over').src"), before);
    choose("left", 3);
    assert_eq!(value(tab, "document.querySelector('.tag-left').textContent"), "Clean");
    assert_eq!(number(tab, "document.querySelectorAll('.extremes .thumb img').length"), 5.0, "each picture once");

    // A click on a heading sorts, a second click reverses.
    let column = "[...document.querySelectorAll('.sortable tbody tr')].map(r => parseFloat(r.children[1].textContent))";
    for (rounds, order) in [(1, "ascending"), (2, "descending")] {
        tab.find_element(".sortable thead th:nth-child(2) button").unwrap().click().unwrap();
        let values: Vec<f64> = value(tab, column).as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(values.len(), 5);
        assert!(values.is_sorted_by(|a, b| if rounds == 1 { a <= b } else { a >= b }), "{values:?}");
        assert!(values[0] != values[4]);
        assert_eq!(value(tab, "document.querySelectorAll('.sortable th')[1].getAttribute('aria-sort')"), order);
        assert_eq!(value(tab, "document.querySelectorAll('.sortable th')[0].getAttribute('aria-sort')"), "none");
    }

    // On a phone only tables are wider than the screen.
    resize(tab, 390, 844);
    assert!(number(tab, "document.documentElement.scrollWidth") <= 390.0);

    assert_eq!(value(tab, "document.title"), "report: evaluation");
    let requests = seen.requests.lock().unwrap();
    let outside = |url: &&String| !url.starts_with("data:") && !url.ends_with("/report.html");
    assert_eq!(requests.iter().filter(outside).count(), 0, "{requests:?}");
    assert_eq!(*seen.errors.lock().unwrap(), [""; 0]);

    // Scripts that are added later do not run either.
    let injected = "document.body.insertAdjacentHTML('beforeend', '<b onclick=\"document.title=1\" id=late></b>'); \
                    document.getElementById('late').click()";
    tab.evaluate(injected, false).unwrap();
    assert_eq!(value(tab, "document.title"), "report: evaluation");
}

#[test]
fn errors_in_tables_and_prompts_name_the_key() {
    let wrong = |set: &str| error(spire(&["eval", "configs/benchmarks/tiny.toml", "--set", set]));
    assert!(wrong("paper_table=2").contains("1, 3, 4, 5, 6, 7, 8"), "{}", wrong("paper_table=2"));
    assert!(wrong("methods.1.prompt=Sharpen").contains("methods.1.prompt = \"Sharpen\""));
    assert!(wrong("methods.1.caption_words=0").contains("methods.1.caption_words"));
    assert!(wrong("methods.1.captions=others").contains("unmatched"));
}
