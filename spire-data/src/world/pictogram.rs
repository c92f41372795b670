//! A kind's drawing, rendered at any size and place.

use std::sync::OnceLock;

use resvg::tiny_skia::{Pixmap, Rect, Transform};
use resvg::usvg::{Options, Tree};

use super::kind::Kind;
use crate::picture::Picture;

/// The parsed drawings, one for each kind, read once.
fn tree(kind: Kind) -> &'static Tree {
    static TREES: OnceLock<Vec<Tree>> = OnceLock::new();
    let parse = |kind: Kind| Tree::from_str(kind.svg(), &Options::default()).expect("the drawings are valid SVG");
    &TREES.get_or_init(|| Kind::ALL.map(parse).into())[kind.number()]
}

/// The rectangle that the drawing covers, in its own units.
fn bounds(kind: Kind) -> Rect {
    tree(kind).root().abs_layer_bounding_box().to_rect()
}

/// Width and height of the drawing where its longer side is 1.
pub(super) fn extent(kind: Kind) -> [f32; 2] {
    let bounds = bounds(kind);
    let longer = bounds.width().max(bounds.height());
    [bounds.width() / longer, bounds.height() / longer]
}

/// Draws `kind` over `picture`: its centre at `centre` and its longer side `side` wide, both in pixels, mirrored where
/// `flip` says so, then turned clockwise by `rotation` radians.
pub(super) fn draw(kind: Kind, picture: &mut Picture, centre: [f32; 2], side: f32, flip: bool, rotation: f32) {
    let Some(mut layer) = Pixmap::new(picture.width as u32, picture.height as u32) else { return };
    let bounds = bounds(kind);
    let scale = side / bounds.width().max(bounds.height());
    let middle = [bounds.x() + bounds.width() / 2.0, bounds.y() + bounds.height() / 2.0];
    let place = Transform::from_translate(-middle[0], -middle[1])
        .post_scale(if flip { -scale } else { scale }, scale)
        .post_rotate(rotation.to_degrees())
        .post_translate(centre[0], centre[1]);
    resvg::render(tree(kind), place, &mut layer.as_mut());
    compose(picture, &layer);
}

/// `picture ← layer over picture`, in the encoded values, as browsers do it.
fn compose(picture: &mut Picture, layer: &Pixmap) {
    let plane = picture.width * picture.height;
    for (i, pixel) in layer.pixels().iter().enumerate().filter(|(_, pixel)| pixel.alpha() > 0) {
        let through = 1.0 - f32::from(pixel.alpha()) / 255.0;
        for (channel, premultiplied) in [pixel.red(), pixel.green(), pixel.blue()].into_iter().enumerate() {
            let value = &mut picture.data[channel * plane + i];
            *value = *value * through + f32::from(premultiplied) / 255.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drawing_fills_its_square_and_stays_inside() {
        for kind in Kind::ALL {
            let [width, height] = extent(kind);
            assert!(width.max(height) == 1.0 && width.min(height) > 0.4, "{kind:?} {width} {height}");
            let mut picture = Picture::filled(64, 64, [0.0, 1.0, 0.0]);
            let before = picture.clone();
            draw(kind, &mut picture, [32.0, 32.0], 48.0, false, 0.0);
            let changed = |i: usize| (0..3).any(|c| picture.plane(c)[i] != before.plane(c)[i]);
            let [mut left, mut right, mut top, mut bottom, mut area] = [64, 0, 64, 0, 0];
            for i in (0..64 * 64).filter(|i| changed(*i)) {
                let (x, y) = (i % 64, i / 64);
                (left, right) = (left.min(x), right.max(x));
                (top, bottom) = (top.min(y), bottom.max(y));
                area += 1;
            }
            assert!(left >= 7 && top >= 7 && right <= 56 && bottom <= 56, "{kind:?} {left} {top} {right} {bottom}");
            assert!((right - left).max(bottom - top) >= 45, "{kind:?} {left} {top} {right} {bottom}");
            assert!(area > 500, "{kind:?} covers {area} pixels");
        }
    }

    #[test]
    fn mirroring_twice_changes_nothing_and_once_mirrors() {
        let drawn = |flip| {
            let mut picture = Picture::filled(64, 64, [0.5; 3]);
            draw(Kind::Horse, &mut picture, [32.0, 32.0], 48.0, flip, 0.0);
            picture
        };
        let (straight, mirrored) = (drawn(false), drawn(true));
        assert_ne!(straight, mirrored);
        let worst = (0..3 * 64 * 64).map(|i| {
            let x = i % 64;
            (straight.data[i] - mirrored.data[i - x + 63 - x]).abs()
        });
        assert!(worst.fold(0.0, f32::max) < 0.1);
    }
}
