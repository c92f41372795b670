//! What objects there are: 48 pictograms of Noto Emoji, in groups whose members a degradation confuses.

use serde::{Deserialize, Serialize};

/// Kinds that look alike once a picture is blurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Group {
    Faces,
    Hoofed,
    Dogs,
    Birds,
    Fruit,
    Vehicles,
    Flowers,
    Balls,
    Buildings,
    Boats,
    Plants,
}

macro_rules! kinds {
    ($count:literal: $($kind:ident, $word:literal, $file:literal, $group:ident;)*) => {
        /// The kind of an object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(missing_docs)]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: [Self; $count] = [$(Self::$kind,)*];

            /// The noun in captions.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $word,)* }
            }

            /// The kinds that it is confused with belong to the same group.
            pub fn group(self) -> Group {
                match self { $(Self::$kind => Group::$group,)* }
            }

            /// Its drawing, an SVG document.
            pub(super) fn svg(self) -> &'static str {
                match self {
                    $(Self::$kind => include_str!(concat!(
                        env!("CARGO_MANIFEST_DIR"), "/../assets/world/", $file, ".svg"
                    )),)*
                }
            }
        }
    };
}

kinds! { 48:
    Lion, "lion", "lion", Faces;
    Tiger, "tiger", "tiger", Faces;
    Bear, "bear", "bear", Faces;
    Panda, "panda", "panda", Faces;
    PolarBear, "polar bear", "polar-bear", Faces;
    Koala, "koala", "koala", Faces;
    Monkey, "monkey", "monkey", Faces;
    Pig, "pig", "pig", Faces;
    Frog, "frog", "frog", Faces;
    Horse, "horse", "horse", Hoofed;
    Zebra, "zebra", "zebra", Hoofed;
    Cow, "cow", "cow", Hoofed;
    Giraffe, "giraffe", "giraffe", Hoofed;
    Elephant, "elephant", "elephant", Hoofed;
    Dog, "dog", "dog", Dogs;
    Wolf, "wolf", "wolf", Dogs;
    Fox, "fox", "fox", Dogs;
    Cat, "cat", "cat", Dogs;
    Rabbit, "rabbit", "rabbit", Dogs;
    Penguin, "penguin", "penguin", Birds;
    Owl, "owl", "owl", Birds;
    Apple, "apple", "apple", Fruit;
    Tomato, "tomato", "tomato", Fruit;
    Tangerine, "tangerine", "tangerine", Fruit;
    Peach, "peach", "peach", Fruit;
    Lemon, "lemon", "lemon", Fruit;
    Pear, "pear", "pear", Fruit;
    Strawberry, "strawberry", "strawberry", Fruit;
    Car, "car", "car", Vehicles;
    Taxi, "taxi", "taxi", Vehicles;
    Suv, "suv", "suv", Vehicles;
    Bus, "bus", "bus", Vehicles;
    Truck, "truck", "truck", Vehicles;
    Sunflower, "sunflower", "sunflower", Flowers;
    Rose, "rose", "rose", Flowers;
    Tulip, "tulip", "tulip", Flowers;
    CherryBlossom, "cherry blossom", "cherry-blossom", Flowers;
    SoccerBall, "soccer ball", "soccer-ball", Balls;
    Basketball, "basketball", "basketball", Balls;
    Volleyball, "volleyball", "volleyball", Balls;
    House, "house", "house", Buildings;
    Church, "church", "church", Buildings;
    Castle, "castle", "castle", Buildings;
    Sailboat, "sailboat", "sailboat", Boats;
    Ship, "ship", "ship", Boats;
    Tree, "tree", "tree", Plants;
    PineTree, "pine tree", "pine-tree", Plants;
    Mushroom, "mushroom", "mushroom", Plants;
}

impl Kind {
    /// Pairs that a degradation confuses. Each kind occurs; if several pairs have it, its partner is that of the first.
    pub const ALIKE: [[Self; 2]; 28] = [
        [Self::Lion, Self::Tiger],
        [Self::Bear, Self::Koala],
        [Self::Panda, Self::PolarBear],
        [Self::Monkey, Self::Pig],
        [Self::Frog, Self::Monkey],
        [Self::Horse, Self::Zebra],
        [Self::Cow, Self::Elephant],
        [Self::Giraffe, Self::Horse],
        [Self::Dog, Self::Cat],
        [Self::Wolf, Self::Fox],
        [Self::Rabbit, Self::Cat],
        [Self::Penguin, Self::Owl],
        [Self::Apple, Self::Tomato],
        [Self::Tangerine, Self::Peach],
        [Self::Lemon, Self::Pear],
        [Self::Strawberry, Self::Apple],
        [Self::Car, Self::Taxi],
        [Self::Suv, Self::Bus],
        [Self::Truck, Self::Bus],
        [Self::Sunflower, Self::Rose],
        [Self::Tulip, Self::CherryBlossom],
        [Self::SoccerBall, Self::Volleyball],
        [Self::Basketball, Self::SoccerBall],
        [Self::House, Self::Church],
        [Self::Castle, Self::House],
        [Self::Sailboat, Self::Ship],
        [Self::Tree, Self::PineTree],
        [Self::Mushroom, Self::Tree],
    ];

    /// Its place in [`Self::ALL`].
    pub fn number(self) -> usize {
        self as usize
    }

    /// The noun with its article: "a lion", "an owl".
    pub fn with_article(self) -> String {
        let article = if self.name().starts_with(['a', 'e', 'i', 'o']) || self == Self::Suv { "an" } else { "a" };
        format!("{article} {}", self.name())
    }

    /// The other kinds of its group, in the order of [`Self::ALL`]. There is always one.
    pub fn confusable(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |kind| kind.group() == self.group() && *kind != self)
    }

    /// The kinds that `text` names, in the order of the text. Words are compared in lower case; "polar bear" is not
    /// also a bear.
    pub fn named_in(text: &str) -> Vec<Self> {
        let text = text.to_lowercase();
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let here = Self::ALL.into_iter().filter_map(|kind| {
                let noun: Vec<&str> = kind.name().split(' ').collect();
                words[at..].starts_with(&noun).then_some((noun.len(), kind))
            });
            match here.max_by_key(|(length, _)| *length) {
                Some((length, kind)) => {
                    found.push(kind);
                    at += length;
                }
                None => at += 1,
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_another_one_in_its_group() {
        for kind in Kind::ALL {
            assert!(kind.confusable().count() >= 1, "{kind:?}");
            assert!(kind.confusable().all(|other| other != kind && other.group() == kind.group()));
            assert_eq!(Kind::ALL[kind.number()], kind);
        }
    }

    #[test]
    fn every_kind_is_confused_with_another_one() {
        assert!(Kind::ALL.iter().all(|kind| Kind::ALIKE.iter().any(|pair| pair.contains(kind))));
        assert!(Kind::ALIKE.iter().all(|[one, other]| one != other));
    }

    #[test]
    fn kinds_are_read_from_a_caption() {
        use Kind::{Bear, PineTree, PolarBear, Suv, Tree};
        assert_eq!(Kind::named_in("A polar bear left of a pine tree"), [PolarBear, PineTree]);
        assert_eq!(Kind::named_in("a bear by the bamboo, a tree"), [Bear, Tree]);
        assert_eq!(Kind::named_in("an SUV."), [Suv]);
        assert_eq!(Kind::named_in("bearing treetops"), []);
        for kind in Kind::ALL {
            assert_eq!(Kind::named_in(&kind.with_article()), [kind]);
        }
    }

    #[test]
    fn articles_follow_the_sound() {
        assert_eq!(Kind::Owl.with_article(), "an owl");
        assert_eq!(Kind::Suv.with_article(), "an suv");
        assert_eq!(Kind::Lion.with_article(), "a lion");
    }
}
