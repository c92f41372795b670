//! Contact sheets: rows of pictures under headings with text beside them, and grids with a caption below each picture.
//! Small pictures are enlarged by a whole factor without interpolation.

use std::path::Path;

use crate::picture_file::{PictureFormat, save_rgb8};
use crate::{Picture, PictureError};
use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use image::{Rgb, RgbImage, imageops};

const BACKGROUND: Rgb<u8> = Rgb([255, 255, 255]);
const INK: Rgb<u8> = Rgb([24, 24, 28]);
const GREY: Rgb<u8> = Rgb([120, 122, 130]);
const RULE: Rgb<u8> = Rgb([224, 225, 230]);

/// Pictures narrower than this are enlarged until they reach it.
const VISIBLE_WIDTH: u32 = 192;
const MARGIN: u32 = 20;
const GAP: u32 = 12;
const TEXT_WIDTH: u32 = 360;

/// Rows of pictures under common headings, each row with its notes at the right.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// One per column, for example degraded, restored, clean.
    pub headings: Vec<String>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// One row of a [`Sheet`].
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// From left to right, under the headings.
    pub pictures: Vec<Picture>,
    /// Written beside the pictures, wrapped.
    pub notes: Vec<Note>,
}

/// A labelled text, such as a prompt.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// The label, for example "semantic prompt".
    pub label: String,
    /// The text; an empty one is shown as "(empty)".
    pub text: String,
}

impl Note {
    /// The note `label`: `text`.
    pub fn new(label: impl Into<String>, text: impl Into<String>) -> Self {
        Self { label: label.into(), text: text.into() }
    }
}

impl Sheet {
    /// An empty sheet with these headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Draws the sheet.
    pub fn draw(&self) -> RgbImage {
        let (heading, label, body) = (Pen::new(19.0, INK), Pen::new(14.0, GREY), Pen::new(17.0, INK));
        let pictures = enlarged(self.rows.iter().map(|row| &row.pictures));
        let columns = pictures.iter().map(Vec::len).chain([self.headings.len()]).max().unwrap_or(0) as u32;
        let cell_width = pictures.iter().flatten().map(RgbImage::width).max().unwrap_or(VISIBLE_WIDTH);
        let has_notes = self.rows.iter().any(|row| !row.notes.is_empty());

        let headings: Vec<Vec<String>> = self.headings.iter().map(|text| heading.wrap(text, cell_width)).collect();
        let heading_height =
            headings.iter().map(|lines| heading.height(lines)).max().map_or(0, |height| height + GAP / 2);
        let notes: Vec<Vec<(&Pen, String)>> = self.rows.iter().map(|row| note_lines(row, &label, &body)).collect();
        let heights: Vec<u32> = pictures
            .iter()
            .zip(&notes)
            .map(|(pictures, notes)| {
                let tallest = pictures.iter().map(RgbImage::height).max().unwrap_or(0);
                tallest.max(notes.iter().map(|(pen, _)| pen.line_height()).sum())
            })
            .collect();

        let pictures_end = MARGIN + columns * (cell_width + GAP);
        let text_left = pictures_end + GAP / 2;
        let right = if has_notes { text_left + TEXT_WIDTH } else { (pictures_end - GAP).max(MARGIN) };
        let height = 2 * MARGIN + heading_height + heights.iter().map(|height| height + 2 * GAP).sum::<u32>();
        let mut sheet = RgbImage::from_pixel(right + MARGIN, height, BACKGROUND);

        let column_left = |column: usize| MARGIN + column as u32 * (cell_width + GAP);
        for (column, lines) in headings.iter().enumerate() {
            heading.draw(&mut sheet, lines, column_left(column), MARGIN);
        }
        let mut top = MARGIN + heading_height;
        for ((pictures, notes), height) in pictures.iter().zip(&notes).zip(heights) {
            rule(&mut sheet, MARGIN, right, top);
            top += GAP;
            for (column, picture) in pictures.iter().enumerate() {
                imageops::replace(&mut sheet, picture, column_left(column).into(), top.into());
            }
            let mut text_top = top;
            for (pen, line) in notes {
                pen.draw_line(&mut sheet, line, text_left, text_top);
                text_top += pen.line_height();
            }
            top += height + GAP;
        }
        sheet
    }
}

/// Pictures in `columns` columns (at least one), row after row, each with its wrapped caption below it.
pub fn grid(columns: usize, pictures: &[(Picture, String)]) -> RgbImage {
    let pen = Pen::new(16.0, INK);
    let columns = columns.clamp(1, pictures.len().max(1));
    let rows = enlarged(pictures.chunks(columns).map(|row| row.iter().map(|(picture, _)| picture)));
    let cell_width = rows.iter().flatten().map(RgbImage::width).max().unwrap_or(VISIBLE_WIDTH);
    let captions: Vec<Vec<String>> = pictures.iter().map(|(_, caption)| pen.wrap(caption, cell_width)).collect();

    // The captions of a row start at the same height, below its tallest picture.
    let heights: Vec<(u32, u32)> = rows
        .iter()
        .zip(captions.chunks(columns))
        .map(|(row, captions)| {
            let picture = row.iter().map(RgbImage::height).max().unwrap_or(0) + GAP / 2;
            (picture, picture + captions.iter().map(|lines| pen.height(lines)).max().unwrap_or(0) + GAP)
        })
        .collect();
    let width = 2 * MARGIN + columns as u32 * (cell_width + GAP) - GAP;
    let height = 2 * MARGIN + heights.iter().map(|(_, height)| height).sum::<u32>();
    let mut sheet = RgbImage::from_pixel(width, height, BACKGROUND);

    let mut top = MARGIN;
    for ((row, captions), (caption_top, height)) in rows.iter().zip(captions.chunks(columns)).zip(heights) {
        for (column, (picture, caption)) in row.iter().zip(captions).enumerate() {
            let left = MARGIN + column as u32 * (cell_width + GAP);
            imageops::replace(&mut sheet, picture, left.into(), top.into());
            pen.draw(&mut sheet, caption, left, top + caption_top);
        }
        top += height;
    }
    sheet
}

/// Writes a sheet as a PNG.
///
/// # Errors
/// The file can't be written.
pub fn save_png(sheet: &RgbImage, path: &Path) -> Result<(), PictureError> {
    save_rgb8(path, PictureFormat::Png, sheet)
}

fn note_lines<'a>(row: &Row, label: &'a Pen, body: &'a Pen) -> Vec<(&'a Pen, String)> {
    let mut lines = Vec::new();
    for (index, note) in row.notes.iter().enumerate() {
        if index > 0 {
            lines.push((label, String::new()));
        }
        lines.extend(label.wrap(&note.label, TEXT_WIDTH).into_iter().map(|line| (label, line)));
        if note.text.trim().is_empty() {
            lines.push((label, "(empty)".to_owned()));
        } else {
            lines.extend(body.wrap(&note.text, TEXT_WIDTH).into_iter().map(|line| (body, line)));
        }
    }
    lines
}

/// Enlarges all pictures by the same whole factor, so that the widest reaches [`VISIBLE_WIDTH`].
fn enlarged<'a, R: IntoIterator<Item = &'a Picture>>(rows: impl Iterator<Item = R>) -> Vec<Vec<RgbImage>> {
    let rows: Vec<Vec<RgbImage>> = rows.map(|row| row.into_iter().map(Picture::to_rgb8).collect()).collect();
    let widest = rows.iter().flatten().map(RgbImage::width).max().unwrap_or(0).max(1);
    let factor = VISIBLE_WIDTH.div_ceil(widest);
    let enlarge = |picture: &RgbImage| {
        let (width, height) = (picture.width() * factor, picture.height() * factor);
        imageops::resize(picture, width, height, imageops::FilterType::Nearest)
    };
    rows.iter().map(|row| row.iter().map(enlarge).collect()).collect()
}

fn rule(sheet: &mut RgbImage, left: u32, right: u32, y: u32) {
    for x in left..right {
        sheet.put_pixel(x, y, RULE);
    }
}

/// A font with a size and a colour.
struct Pen {
    font: FontRef<'static>,
    scale: PxScale,
    colour: Rgb<u8>,
}

impl Pen {
    fn new(size: f32, colour: Rgb<u8>) -> Self {
        let font = FontRef::try_from_slice(epaint_default_fonts::UBUNTU_LIGHT).expect("the embedded font is valid");
        Self { font, scale: PxScale::from(size), colour }
    }

    fn line_height(&self) -> u32 {
        (self.scale.y * 1.3).ceil() as u32
    }

    fn height(&self, lines: &[String]) -> u32 {
        lines.len() as u32 * self.line_height()
    }

    /// The glyphs of a line with their left edges, and the width of the line, in pixels. A character that the font
    /// lacks becomes a box.
    fn glyphs(&self, line: &str) -> (Vec<(ab_glyph::GlyphId, f32)>, f32) {
        let font = self.font.as_scaled(self.scale);
        let mut x = 0.0;
        let mut glyphs: Vec<(ab_glyph::GlyphId, f32)> = Vec::new();
        for character in line.chars() {
            let glyph = font.glyph_id(character);
            if let Some((before, _)) = glyphs.last() {
                x += font.kern(*before, glyph);
            }
            glyphs.push((glyph, x));
            x += font.h_advance(glyph);
        }
        (glyphs, x)
    }

    fn fits(&self, line: &str, width: u32) -> bool {
        self.glyphs(line).1 <= width as f32
    }

    /// Breaks a text into lines of at most `width` pixels, between words, or inside a word that is too wide.
    fn wrap(&self, text: &str, width: u32) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in text.trim().lines() {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
                if self.fits(&longer, width) {
                    line = longer;
                    continue;
                }
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                for character in word.chars() {
                    line.push(character);
                    if line.chars().count() > 1 && !self.fits(&line, width) {
                        line.pop();
                        lines.push(std::mem::replace(&mut line, character.to_string()));
                    }
                }
            }
            lines.push(line);
        }
        lines
    }

    fn draw(&self, sheet: &mut RgbImage, lines: &[String], left: u32, top: u32) {
        for (line, top) in lines.iter().zip((top..).step_by(self.line_height() as usize)) {
            self.draw_line(sheet, line, left, top);
        }
    }

    fn draw_line(&self, sheet: &mut RgbImage, line: &str, left: u32, top: u32) {
        let baseline = top as f32 + self.font.as_scaled(self.scale).ascent();
        for (glyph, x) in self.glyphs(line).0 {
            let glyph = glyph.with_scale_and_position(self.scale, point(left as f32 + x, baseline));
            let Some(outline) = self.font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, coverage| {
                let (x, y) = (corner.x as i64 + i64::from(x), corner.y as i64 + i64::from(y));
                let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
                if let Some(pixel) = sheet.get_pixel_mut_checked(x, y) {
                    // Blending in sRGB makes thin strokes too light; the square root corrects this.
                    let alpha = coverage.clamp(0.0, 1.0).sqrt();
                    for (value, ink) in pixel.0.iter_mut().zip(self.colour.0) {
                        *value = (f32::from(*value) * (1.0 - alpha) + f32::from(ink) * alpha).round() as u8;
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::GenericImageView;
    use proptest::prelude::*;

    fn two_by_two() -> Picture {
        Picture::from_rgb8(&RgbImage::from_fn(2, 2, |x, y| Rgb([x as u8 * 200, y as u8 * 200, 90])))
    }

    fn is_blank(sheet: &RgbImage, left: u32, top: u32, width: u32, height: u32) -> bool {
        imageops::crop_imm(sheet, left, top, width, height).pixels().all(|(_, _, pixel)| pixel == BACKGROUND)
    }

    fn has_clear_margins(sheet: &RgbImage) -> bool {
        let (width, height) = sheet.dimensions();
        let edge = MARGIN - 2;
        is_blank(sheet, 0, 0, width, edge)
            && is_blank(sheet, 0, height - edge, width, edge)
            && is_blank(sheet, 0, 0, edge, height)
            && is_blank(sheet, width - edge, 0, edge, height)
    }

    #[test]
    fn pixels_are_enlarged_by_a_whole_factor_and_not_blended() {
        let sheet = grid(1, &[(two_by_two(), String::new())]);
        for (x, y) in (0..192).flat_map(|x| (0..192).map(move |y| (x, y))) {
            let expected = Rgb([(x / 96) as u8 * 200, (y / 96) as u8 * 200, 90]);
            assert_eq!(*sheet.get_pixel(MARGIN + x, MARGIN + y), expected);
        }
    }

    #[test]
    fn a_wide_picture_is_not_enlarged() {
        let sheet = grid(1, &[(Picture::filled(300, 10, [0.0; 3]), String::new())]);
        assert_eq!(sheet.width(), 300 + 2 * MARGIN);
    }

    #[test]
    fn a_sheet_has_pictures_in_columns_and_notes_at_the_right() {
        let notes = vec![Note::new("semantic prompt", "a red ring"), Note::new("restoration prompt", "")];
        let row = Row { pictures: vec![Picture::filled(64, 64, [1.0, 0.0, 0.0]), two_by_two()], notes };
        let sheet = Sheet { headings: vec!["degraded".into(), "clean".into()], rows: vec![row] }.draw();
        assert!(has_clear_margins(&sheet));
        let reds = sheet.pixels().filter(|pixel| pixel.0 == [255, 0, 0]).count();
        assert_eq!(reds, 192 * 192);
        let text_left = MARGIN + 2 * (192 + GAP);
        assert!(!is_blank(&sheet, text_left, sheet.height() / 2, TEXT_WIDTH, 60));
    }

    #[test]
    fn long_text_makes_the_sheet_taller_and_never_wider() {
        let draw = |text: String| {
            let row = Row { pictures: vec![two_by_two()], notes: vec![Note::new("prompt", text)] };
            Sheet { headings: vec!["clean".into()], rows: vec![row] }.draw()
        };
        let (short, long) = (draw("ring".into()), draw("a very long caption ".repeat(60)));
        assert_eq!(short.width(), long.width());
        assert!(long.height() > short.height() + 300);
        assert!(has_clear_margins(&long));
    }

    #[test]
    fn a_character_that_the_font_lacks_is_a_box() {
        let pen = Pen::new(17.0, INK);
        let mut sheet = RgbImage::from_pixel(40, 40, BACKGROUND);
        pen.draw_line(&mut sheet, "日", 8, 8);
        assert!(!is_blank(&sheet, 0, 0, 40, 40));
    }

    #[test]
    fn empty_sheets_are_drawn() {
        for sheet in
            [Sheet::default().draw(), grid(0, &[]), Sheet { rows: vec![Row::default()], ..Sheet::default() }.draw()]
        {
            assert!(sheet.width() > 0 && sheet.height() > 0);
        }
    }

    #[test]
    fn a_sheet_is_written_as_png() {
        let dir = tempfile::tempdir().unwrap();
        let (path, sheet) = (dir.path().join("sheet.png"), Sheet::new(["clean"]).draw());
        save_png(&sheet, &path).unwrap();
        assert_eq!(image::open(&path).unwrap().into_rgb8(), sheet);
        assert!(save_png(&sheet, &dir.path().join("no/such.png")).unwrap_err().to_string().contains("such.png"));
    }

    proptest! {
        #[test]
        fn wrapping_keeps_every_character_and_every_line_fits(text in "(\\PC{0,12}[ \n]){0,8}") {
            let pen = Pen::new(17.0, INK);
            let lines = pen.wrap(&text, 120);
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
            for line in &lines {
                prop_assert!(pen.fits(line, 120) || line.chars().count() == 1, "{}", line);
            }
        }
    }
}
