//! Scrambled sentences: frames with other words in them, and random words with names between them. From
//! frames alone a model learns only where each frame has its names; from these it learns what a name
//! looks like.

use std::sync::LazyLock;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::kinds;
use crate::world::kinds::Naming;

const WORDS: &str = "the a an this that these those his her its their our my your some any no every each \
    all both many few more most other another such what which who where when why how and or but if \
    because although though while until since before after as than then so also too only even just \
    not never always often sometimes usually already still again soon later now today yesterday \
    tomorrow here there in on at by for with without within from to into onto of off over under \
    above below between among through across along around against about near behind beyond during \
    despite toward upon is are was were be been being has have had do does did will would can could \
    may might must shall should say says said tell told ask asked call called name named think \
    thought know knew known believe see saw seen look looked hear heard find found find lose lost \
    get got give gave given take took taken bring brought carry carried send sent put set keep kept \
    hold held leave left come came go went gone move moved run ran walk walked travel travelled \
    arrive arrived return returned reach reached cross crossed enter entered pass passed follow \
    followed lead led begin began start started stop stopped end ended continue finish finished \
    make made build built grow grew create created produce produced use used work worked play \
    played write wrote written read draw drawn paint sing sung teach taught learn study studied \
    buy bought sell sold pay paid cost earn own owned lend borrow win won fight fought attack \
    attacked defend defended rule ruled elect elected join joined meet met visit visited marry \
    married live lived die died bury buried kill killed fall fell rise rose burn burned freeze \
    melt flow flows contain contains consist include includes cover covered show showed shown hide \
    open opened close closed break broke change changed become became remain remained seem seemed \
    appear appeared happen happened need needed want wanted like liked love loved hate hated fear \
    help helped try tried fail failed hope hoped wait waited sleep eat eats drink cook wash \
    person people man woman men women child children boy girl friend neighbour guest stranger king \
    queen president minister mayor governor general soldier sailor farmer teacher doctor worker \
    driver pilot lawyer judge thief priest poet player leader member crowd family team army church \
    school office shop market factory farm house hotel hospital station airport port bridge road \
    street square park garden wall gate tower castle palace temple village town region province \
    area coast border hill valley plain field forest desert lake island beach bay cave rock stone \
    sand mud ice snow rain wind storm flood fire smoke light night day week month year century hour \
    minute morning evening spring summer autumn winter weather climate food bread meat fish rice \
    fruit sugar salt oil water wine tea coffee milk tree flower grass horse dog cat bird cow sheep \
    car train bus ship boat plane bicycle engine wheel machine tool metal wood paper glass cloth \
    gold coal gas power money price tax bank trade business law war peace battle treaty election \
    vote speech letter story song film picture map flag prize medal game match race party holiday \
    language word sentence question answer idea plan problem reason result part side top bottom \
    middle north south east west left right first second third last next old new young big small \
    large little long short high low deep wide narrow heavy light fast slow hot cold warm cool dry \
    wet clean dirty rich poor strong weak hard soft easy difficult good bad better best worse worst \
    happy sad angry famous important popular public private common rare modern ancient local \
    foreign national free full empty ready late early whole true false same different one two three \
    four five six seven eight nine ten hundred thousand million half percent kilometre metre";

/// A plain word.
fn word(rng: &mut impl Rng) -> &'static str {
    static ALL: LazyLock<Vec<&str>> = LazyLock::new(|| WORDS.split_whitespace().collect());
    ALL.choose(rng).copied().unwrap_or("the")
}

/// `frame` with words replaced and added, or sometimes words in random order.
pub fn scramble(rng: &mut impl Rng, frame: &str) -> String {
    if rng.random_bool(0.35) {
        return salad(rng);
    }
    words_changed(rng, frame)
}

/// `frame` with words replaced and added.
pub fn words_changed(rng: &mut impl Rng, frame: &str) -> String {
    let (part, more) = (rng.random_range(0.1..0.7), rng.random_range(0.0..0.25));
    let mut words = Vec::new();
    for old in frame.split(' ') {
        if rng.random_bool(more) {
            words.push(word(rng).to_owned());
        }
        let letters = old.chars().all(|c| c.is_lowercase() || ".,;?!".contains(c));
        if letters && rng.random_bool(part) {
            let mark = old.trim_start_matches(char::is_alphabetic);
            words.push(format!("{}{mark}", word(rng)));
        } else {
            words.push(old.to_owned());
        }
    }
    // Here an invented first name could not be distinguished from other names.
    words.join(" ").replace("{=first}", "{=known}")
}

/// Three to sixteen words in random order, with up to four names among them.
fn salad(rng: &mut impl Rng) -> String {
    let names = rng.random_range(0..=4);
    let mut words: Vec<String> = (0..rng.random_range(3..=12))
        .map(|_| match rng.random_range(0..40) {
            0 => format!("{},", word(rng)),
            1 => "{=day}".to_owned(),
            2 => "{=month}".to_owned(),
            3 => "{=year}".to_owned(),
            4 => "{=count}".to_owned(),
            5 => "{=holiday}".to_owned(),
            6 => "{=known}".to_owned(),
            _ => word(rng).to_owned(),
        })
        .collect();
    for at in 0..names {
        let capital = kinds::all()
            .iter()
            .filter(|kind| kind.naming != Naming::Word || kind.name == "language");
        let kinds: Vec<_> = capital.collect();
        let slot = match kinds.choose(rng) {
            Some(kind) if at > 0 => format!("{{@{}}}", kind.name),
            _ => "{n}".to_owned(),
        };
        let after = ["", "", "", "", ",", "'s", " and"]
            .choose(rng)
            .copied()
            .unwrap_or_default();
        words.insert(rng.random_range(0..=words.len()), slot + after);
    }
    let mark = [".", ".", ".", "?", "!", ""]
        .choose(rng)
        .copied()
        .unwrap_or_default();
    words.join(" ").trim_end_matches([',']).to_owned() + mark
}
