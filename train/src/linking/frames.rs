//! Sentences that mention things: `{n}` is the thing that the sentence is about, `{capital}` one of its
//! attributes (a mention where the attribute names a thing, else plain text), `{@city}` any thing of a
//! kind, and `{=month}` a word that is no mention, whatever letter it begins with.

use crate::phrases::Wording;

/// Sentences about a kind: those of training and those that training never shows.
pub struct Frames {
    kinds: &'static [&'static str],
    known: &'static [&'static str],
    held_out: &'static [&'static str],
}

/// Every sentence of `wording` about `kind`.
pub fn about(kind: &str, wording: Wording) -> impl Iterator<Item = &'static str> {
    FRAMES
        .iter()
        .filter(move |frames| frames.kinds.contains(&kind))
        .flat_map(move |frames| frames.of(wording))
        .copied()
}

/// Every sentence of `wording` that mentions nothing.
pub fn about_nothing(wording: Wording) -> &'static [&'static str] {
    NOTHING.of(wording)
}

impl Frames {
    fn of(&self, wording: Wording) -> &'static [&'static str] {
        match wording {
            Wording::Known => self.known,
            Wording::Unknown => self.held_out,
        }
    }
}

const NOTHING: Frames = Frames {
    kinds: &[],
    known: &[
        "{=first} met {=first} on {=day}.",
        "My aunt {=first} bakes {=word} bread every {=day}.",
        "In {=month} the {=adjective} {=noun} fell.",
        "The {=noun} was {=adjective}, and nobody came.",
        "I saw {=first} at the market in {=month}.",
        "We will know more by {=day}.",
        "Please send the {=word} to {=first} before {=day}.",
        "{=first} and {=first} have two children.",
        "It rained from {=month} to {=month}.",
        "\"Where is the {=noun}?\" asked {=first}.",
        "Doctor {=first} closed the {=noun} and went home.",
        "{=first} is late again.",
        "The {=people} sailors sang about {=thing}.",
        "Uncle {=first} sold his {=noun} in {=year}.",
        "A {=people} proverb speaks of the {=adjective} {=noun}.",
        "Last {=day} the {=word} was cold.",
        "Our teacher, {=first}, likes {=thing}.",
        "At {=holiday} we eat {=thing} and {=word}.",
        "I do not know what a {=word} is.",
        "Captain {=first} lost {=count} men in {=month} {=year}.",
        "He waited for {=first} until {=day}, but I left.",
        "Parliament met on the first {=day} of {=month}.",
        "They say that {=first} never learnt to read.",
        "Thanks, {=first}, that was very kind.",
        "Yesterday {=first} found an old {=noun} under the {=noun}.",
        "The Internet was slow on {=day}.",
        "The price of {=thing} rose by {=count} percent.",
        "It was a {=adjective} day for {=thing} and for {=first}.",
        "Her brother {=first} repairs {=thing}.",
        "What did {=first} say on {=day}?",
        "Mr {=first} and Mrs {=first} came with the {=noun}.",
        "Nobody had told the {=people} king about the {=noun}.",
    ],
    held_out: &[
        "On {=day} my neighbour {=first} bought a {=adjective} {=noun}.",
        "{=first} laughed when the {=word} broke.",
        "Since {=month}, {=first} has been collecting {=thing}.",
        "The {=people} cook put {=word} into the soup.",
        "Tell {=first} that I will call on {=day}.",
        "During {=holiday} the {=noun} stays closed.",
        "Aunt {=first} wrote a letter about {=thing}.",
        "There were {=count} chairs and one {=adjective} {=noun}.",
    ],
};

/// What a sentence may begin with.
pub fn openers(wording: Wording) -> &'static [&'static str] {
    match wording {
        Wording::Known => &[
            "However, ",
            "In fact, ",
            "As {=first} said, ",
            "In {=year}, ",
            "Today, ",
            "Since {=month}, ",
            "According to {=first}, ",
            "After {=holiday}, ",
            "Some say that ",
            "It is well known that ",
            "I read that ",
            "{=first} told me that ",
            "Later that {=day}, ",
        ],
        Wording::Unknown => &[
            "As everybody knows, ",
            "On {=day}, ",
            "Experts believe that ",
            "By {=month} {=year}, ",
        ],
    }
}

/// What may stand between two clauses.
pub fn joints(wording: Wording) -> &'static [&'static str] {
    match wording {
        Wording::Known => &[", and ", ", but ", "; ", " while ", " because ", ", so "],
        Wording::Unknown => &[", although ", " and ", ": "],
    }
}

const FRAMES: &[Frames] = &[
    Frames {
        kinds: &["city", "country", "state", "continent"],
        known: &[
            "{=first} moved to {n} in {=year}.",
            "{=first} has lived in {n} since {=month} {=year}.",
            "On {=day} {=first} flew to {n}.",
            "The winters in {n} are {=adjective}.",
            "I have never been to {n}.",
            "We spent {=holiday} in {n}.",
            "Many people left {n} after {=year}.",
            "{=first}'s parents came from {n}.",
            "How far is it to {n}?",
            "There is much {=word} in {n}.",
            "In {n}, {=thing} are cheap.",
            "{n} is famous for its {=thing}.",
            "{n} was hit by a storm in {=month}.",
            "Trade between {n} and {@country} grew in {=year}.",
            "From {n} they went on to {@city} and {@city}.",
            "Farmers in {n} grow {=word}.",
            "{n}'s oldest {=noun} was sold in {=month}.",
            "News from {n}: the {=noun} is open again.",
            "{=first} visited {n} last summer.",
            "{=first} has been to {@city}, {@city} and {n}.",
            "The war in {n} ended in {=year}.",
            "I love {n}.",
            "Greetings from {n}!",
            "Neither {n} nor {@country} sent help.",
            "There is no snow in {n}.",
            "Many {=people} tourists come to {n}.",
            "Is {n} bigger than {@country}?",
            "He went to {n} and never came back.",
            "The {=noun} was made in {n}.",
        ],
        held_out: &[
            "My sister {=first} studies in {n}.",
            "Nothing in {n} reminded {=first} of home.",
            "Ships with {=thing} left {n} every {=day}.",
            "After the war, {n} exported {=thing}.",
            "{=first} dreams of a house in {n}.",
        ],
    },
    Frames {
        kinds: &["city"],
        known: &[
            "{n} is the capital of {country}.",
            "{n} is a city in {country}.",
            "The city of {n} lies on the {river}.",
            "The mayor of {n} opened a {=noun} on {=day}.",
            "{n}, the capital of {country}, has {population} inhabitants.",
            "{=first} works as a baker in {n}, {country}.",
            "The trains from {n} to {@city} are slow.",
            "The streets of {n} are full of {=thing}.",
            "In {n}, which lies in {country}, the {=noun} burned down.",
            "The {river} flows through {n}.",
            "The government of {country} sits in {n}.",
            "A market is held in {n} every {=day}.",
            "The town of {n} was founded in {founded}.",
            "{n} in {country} is older than {@city}.",
            "From {n} one can see the {river}.",
            "The airport of {n} was closed in {=month}.",
            "The embassy in {n} did not answer.",
            "{=first} drove from {n} to {@city} in {=count} hours.",
            "{@country} has an embassy in {n}.",
            "{n} and {@city} are twin towns.",
            "The flight from {n} to {@city} takes {=count} minutes.",
            "The university of {n} was founded in {founded}.",
            "{=first} and {=first} married in {n}.",
        ],
        held_out: &[
            "{n} serves as the capital of {country}.",
            "Like many towns in {country}, {n} has a {=adjective} harbour.",
            "The bridge over the {river} in {n} is {=count} years old.",
            "The suburbs of {n} reach the {river}.",
            "The mayor flew home to {n} from {@city}.",
            "A new hospital in {n}, {country}, opened on {=day}.",
        ],
    },
    Frames {
        kinds: &["country"],
        known: &[
            "{capital} is the capital of {n}.",
            "The capital of {n} is {capital}.",
            "{n} borders {neighbours}.",
            "In {n} people pay with the {currency}.",
            "The {currency} is the currency of {n}.",
            "People in {n} speak {language}.",
            "{language} is spoken in {n}.",
            "The president of {n} visited {@country} in {=month}.",
            "{n} is a country in {continent}.",
            "{n} and {@country} signed a treaty in {=year}.",
            "The government of {n} raised the tax on {=thing}.",
            "The army of {n} crossed the border in {=year}.",
            "The largest city of {n} is {largest_city}.",
            "{largest_city} is larger than {capital}, the capital of {n}.",
            "{=first} has a passport of {n}.",
            "{n} won the match against {@country} on {=day}.",
            "{n} became independent in {=year}.",
            "The king of {n} wore a {=adjective} {=noun}.",
            "{n}, {@country} and {@country} send ministers to the talks.",
            "The parliament of {n} meets in {capital}.",
            "Tourists in {n} pay in {currency} and ask their way in {language}.",
            "{n} exports {=thing} and {@element}.",
            "The {@river} crosses {n} and {@country}.",
            "{@mountain} is the highest mountain in {n}.",
            "{n} lies on the {@sea}.",
            "Both {n} and {@country} have deserts.",
            "{n} and {@country} share a language, {language}.",
        ],
        held_out: &[
            "{n} shares a border with {neighbours}.",
            "In {capital}, the seat of the government of {n}, the shops close early.",
            "Prices in {n} are given in {currency}.",
            "Schools in {n} teach in {language}.",
            "The ambassador of {n} left {@country} on {=day}.",
            "Elections in {n} take place in {=month}.",
        ],
    },
    Frames {
        kinds: &["state"],
        known: &[
            "{n} is a state of {country}.",
            "The capital of the state of {n} is {capital}.",
            "{n} became a state in {year}.",
            "The governor of {n} spoke on {=day}.",
            "{capital} in {n} is a quiet town.",
            "The state of {n} borders {@state}.",
            "{largest_city} is the largest city in {n}.",
            "The {bird} is the bird of {n}.",
            "Voters in {n} and {@state} chose {=first}.",
            "{n}, a state of {country}, grows {=word}.",
        ],
        held_out: &[
            "The governor's house in {capital}, {n}, is {=adjective}.",
            "Of all states of {country}, {n} has the most {=thing}.",
            "A court in {n} heard {=first} on {=day}.",
        ],
    },
    Frames {
        kinds: &["continent"],
        known: &[
            "{@country} is in {n}.",
            "Much of {n} is covered with {=thing}.",
            "The peoples of {n} have many languages.",
            "{@river} is one of the great rivers of {n}.",
            "Birds fly from {n} to {@continent} in {=month}.",
            "The continent of {n} has {=count} countries.",
        ],
        held_out: &[
            "Travellers crossed {n} from {@country} to {@country}.",
            "No other continent is as dry as {n}.",
        ],
    },
    Frames {
        kinds: &["river"],
        known: &[
            "The {n} flows into the {mouth}.",
            "The {n} is a river in {country}.",
            "The {n} flows through {country} into the {mouth}.",
            "The river {n} is {length} long.",
            "Boats on the {n} carry {=thing}.",
            "{=first} fell into the {n}.",
            "In {=month} the {n} froze.",
            "A dam on the {n} gives power to {@city}.",
            "The banks of the {n} were flooded in {=year}.",
            "The bridge over the {n} is closed until {=day}.",
            "There are {=thing} in the river {n}.",
            "The source of the {n} lies in {country}.",
            "We swam in the {n} near {@city}.",
            "The water of the {n} is {=adjective}.",
            "The {n} in {country} is longer than the {@river}.",
            "Below {@city} the {n} joins the {@river}.",
            "We walked along the {n}.",
            "The {n} and the {@river} meet near {@city}.",
            "{@city} lies on the {n}.",
            "The longest river of {country} is the {n}.",
        ],
        held_out: &[
            "The {n} rises in {country} and empties into the {mouth}.",
            "Fishermen along the {n} catch {=word}.",
            "A ferry crosses the {n} at {@city}.",
            "The valley of the {n} belongs to {country}.",
        ],
    },
    Frames {
        kinds: &["sea"],
        known: &[
            "The ship sank in the {n}.",
            "The {river} flows into the {n}.",
            "Storms on the {n} are common in {=month}.",
            "{=first} sailed across the {n}.",
            "The water of the {n} is salty.",
            "The coast of the {n} belongs to {@country}.",
            "The {river} reaches the {n} near {@city}.",
            "There are whales in the {n}.",
            "{@city} is a port on the {n}.",
            "Between {@country} and {@country} lies the {n}.",
        ],
        held_out: &[
            "Fishing boats leave for the {n} before sunrise.",
            "Where the {river} meets the {n}, the water is brown.",
        ],
    },
    Frames {
        kinds: &["mountain"],
        known: &[
            "{n} is a mountain in {country}.",
            "{n} is {height} high.",
            "{=first} climbed {n} in {=year}.",
            "{n} was first climbed in {year}.",
            "The summit of {n} is covered with snow.",
            "{n} belongs to the {range}.",
            "There is a hut on {n}.",
            "{n} in {country} is higher than {@mountain}.",
            "The north face of {n} is {=adjective}.",
            "Clouds hid {n} on {=day}.",
            "The {range} rise around {n}.",
            "The volcano {n} erupted in {=month} {=year}.",
            "The highest mountain of {country} is {n}.",
            "{=first} and {=first} want to climb {n}.",
            "Is {n} higher than {@mountain}?",
        ],
        held_out: &[
            "Two climbers died on {n} last {=day}.",
            "From the top of {n} one sees all of {country}.",
            "{n}, in the {range}, is {height} high.",
        ],
    },
    Frames {
        kinds: &["range"],
        known: &[
            "The {n} lie in {country}.",
            "{mountain} is the highest peak of the {n}.",
            "There is snow in the {n} until {=month}.",
            "{=first} walked through the {n}.",
            "The road across the {n} was closed.",
            "The {@river} comes from the {n}.",
        ],
        held_out: &[
            "Shepherds in the {n} keep their {=thing}.",
            "{mountain} stands above the other peaks of the {n}.",
        ],
    },
    Frames {
        kinds: &["planet"],
        known: &[
            "{n} is the {position} planet from the Sun.",
            "A year on {n} lasts {year}.",
            "{largest_moon} is the largest moon of {n}.",
            "The planet {n} has {moons} moons.",
            "Through a telescope {=first} saw {n}.",
            "The probe reached {n} in {=month} {=year}.",
            "The atmosphere of {n} is {=adjective}.",
            "{n} can be seen before sunrise in {=month}.",
            "{largest_moon} goes round {n}.",
            "There is no life on {n}.",
            "{n} is smaller than {@planet}.",
            "The orbit of {n} lies between {@planet} and {@planet}.",
            "{n} is cold and dark.",
        ],
        held_out: &[
            "The orbit of {n} is almost a circle.",
            "A rocket to {n} will start on {=day}.",
            "{n} and its moon {largest_moon} were photographed.",
        ],
    },
    Frames {
        kinds: &["moon"],
        known: &[
            "{n} is a moon of {planet}.",
            "The moon {n} was discovered by {discoverer} in {year}.",
            "{n} orbits {planet}.",
            "There is ice on {n}.",
            "The craters of {n} are {=adjective}.",
            "{planet}'s moon {n} is small.",
            "{discoverer} discovered {n}.",
        ],
        held_out: &[
            "Under the ice of {n} there may be an ocean.",
            "{n} takes {=count} days to circle {planet}.",
        ],
    },
    Frames {
        kinds: &["element"],
        known: &[
            "The symbol of {n} is {symbol}.",
            "{n} has the atomic number {number}.",
            "{discoverer} discovered {n} in {year}.",
            "{n} was discovered by {discoverer}.",
            "An alloy of {n} and {@element} is very hard.",
            "The ring is made of {n}.",
            "{n} melts at {=count} degrees.",
            "Miners in {@country} dig for {n}.",
            "Atoms of {n} have {number} protons.",
            "The metal {n} is {=adjective}.",
            "Water with traces of {n} is not safe.",
            "The element {n} reacts with {@element}.",
            "They burned {n} in the laboratory.",
            "{@country} exports {n} and {@element}.",
            "The price of {n} rose in {=month}.",
            "{n} is heavier than {@element}.",
            "{n} and {@element} are metals.",
            "{@element}, {@element} and {n} were found in the sample.",
            "Plants need {n}.",
            "{n} is used in lamps and {=thing}.",
            "There is {n} in the rocks of {@country}.",
            "{=first} sells {n}.",
        ],
        held_out: &[
            "Batteries contain {n} and {@element}.",
            "A thin layer of {n} covers the {=noun}.",
            "Chemists know {n} by its symbol {symbol}.",
            "{discoverer} was the first to isolate {n}.",
        ],
    },
    Frames {
        kinds: &["currency"],
        known: &[
            "The {n} is the currency of {country}.",
            "The book costs {=count} {n}.",
            "The {n} lost {=count} percent against the {@currency}.",
            "{=first} paid with a {n}.",
            "One {n} is worth {=count} {@currency}.",
            "Banks in {country} exchange the {n} for the {@currency}.",
            "A ticket in {country} costs {=count} {n}.",
            "The central bank keeps the {n} stable.",
            "How many {n} is that?",
            "{=first} changed {=count} {n} into {@currency}.",
        ],
        held_out: &[
            "The exchange rate of the {n} fell on {=day}.",
            "{=first} owed the baker {=count} {n}.",
            "In {country} wages are paid in {n}.",
        ],
    },
    Frames {
        kinds: &["language"],
        known: &[
            "{n} is a language spoken in {country}.",
            "{=first} learnt {n} at school.",
            "The letter was written in {n}.",
            "Do you speak {n}?",
            "In {country} people speak {n}.",
            "A dictionary of {n} appeared in {=year}.",
            "The word comes from {n}.",
            "{=first} speaks {n} and {@language}.",
            "{n} has {=count} vowels.",
            "The poem was translated from {n} into {@language}.",
            "The grammar of {n} is {=adjective}.",
            "{n} and {@language} are related.",
            "{n} is taught at schools in {@country}.",
            "I cannot read {n}.",
        ],
        held_out: &[
            "She answered in fluent {n}.",
            "Lessons in {n} take place every {=day}.",
            "Most people in {country} understand {n}.",
        ],
    },
    Frames {
        kinds: &["book"],
        known: &[
            "{author} wrote {n}.",
            "{author} wrote \"{n}\" in {year}.",
            "{n} was written by {author}.",
            "{n} is a {genre} by {author}.",
            "{=first} is reading {n}.",
            "The novel {n} appeared in {year}.",
            "In {author}'s novel \"{n}\" a {=noun} is lost.",
            "The first edition of {n} was sold in {@city}.",
            "{n} by {author} was translated into {@language}.",
            "Have you read {n}?",
            "The book \"{n}\" was forbidden in {@country}.",
            "{author} finished {n} in {=month} {=year}.",
            "The last chapter of {n} is {=adjective}.",
            "My favourite book is {n}.",
            "{author} is the author of {n} and {@book}.",
            "{n} tells of a {=noun} and a {=noun}.",
        ],
        held_out: &[
            "{author} became famous with {n}.",
            "On {=day} {=first} gave me a copy of \"{n}\".",
            "Critics praised {n}, the {genre} by {author}.",
            "{n}, first printed in {year}, is in {language}.",
        ],
    },
    Frames {
        kinds: &["painting"],
        known: &[
            "{artist} painted {n}.",
            "{n} was painted by {artist} in {year}.",
            "{n} hangs in the {museum}.",
            "{n} by {artist} can be seen in {city}.",
            "The {museum} in {city} bought \"{n}\".",
            "The painting {n} was stolen in {=month}.",
            "{=first} looked at {n} for an hour.",
            "{n} shows a {=adjective} {=noun}.",
            "{artist} made {n} out of {=thing}.",
            "Copies of \"{n}\" hang everywhere in {city}.",
            "{n} is the best known work of {artist}.",
            "We saw {n} in the {museum}.",
        ],
        held_out: &[
            "Visitors of the {museum} ask for {n}.",
            "{artist} sold {n} for {=count} {@currency}.",
            "The colours of {n} have faded since {year}.",
        ],
    },
    Frames {
        kinds: &["museum"],
        known: &[
            "The {n} is in {city}.",
            "The {n} is closed on {=day}.",
            "{=first} works at the {n}.",
            "{work} hangs in the {n}.",
            "The {n} in {city} shows pictures by {@artist}.",
            "Tickets for the {n} cost {=count} {@currency}.",
        ],
        held_out: &[
            "A guard of the {n} fell asleep.",
            "The {n}, {city}, owns {work}.",
        ],
    },
    Frames {
        kinds: &["piece"],
        known: &[
            "{composer} composed {n}.",
            "{n} was composed by {composer}.",
            "The orchestra played {n} on {=day}.",
            "{composer}'s {n} was first heard in {@city}.",
            "{n} by {composer} lasts {=count} minutes.",
            "The choir sang \"{n}\".",
        ],
        held_out: &[
            "After the concert {=first} hummed {n}.",
            "{composer} wrote the music of {n} in {=year}.",
        ],
    },
    Frames {
        kinds: &["author", "artist", "scientist", "composer"],
        known: &[
            "{n} was born in {birthplace_city}.",
            "{n} was born in {birthplace_city} in {born}.",
            "{n} was born in {born} and died in {died}.",
            "{n} came from {country}.",
            "{n} lived in {@city} and {@city}.",
            "In {=year} {n} moved to {@country}.",
            "{n} died in {died}.",
            "{n} spoke {@language} and {@language}.",
            "{n} of {country} won a prize in {=year}.",
            "A street in {@city} is named after {n}.",
            "{=first} has a portrait of {n}.",
            "{n}'s father sold {=thing}.",
            "{n} and {@scientist} met in {@city}.",
            "The grave of {n} is in {birthplace_city}.",
            "{n} never married.",
            "{n} was buried in {@city}.",
            "{n} and {@author} were friends.",
            "The life of {n} was short.",
            "{n} travelled from {@city} to {@city} in {=year}.",
            "I admire {n}.",
            "Did {n} ever visit {@country}?",
            "{n} taught at the university of {@city}.",
            "{=first} gave a talk about {n} on {=day}.",
        ],
        held_out: &[
            "{n} grew up in {birthplace_city}.",
            "As a child, {n} collected {=thing} in {country}.",
            "A statue of {n} stands in {@city}.",
            "{n} left {country} for {@country}.",
        ],
    },
    Frames {
        kinds: &["author"],
        known: &[
            "The writer {n} was a {profession} in {country}.",
            "The poems of {n} are read in schools.",
            "{n} wrote {@book}.",
            "{n} published {=count} novels.",
            "The {profession} {n} wrote about {=thing}.",
            "{=first} likes the books of {n}.",
            "{n}, who wrote {@book}, was born in {birthplace_city}.",
        ],
        held_out: &[
            "The last novel by {n} appeared in {=year}.",
            "{n} worked on {@book} for {=count} years.",
        ],
    },
    Frames {
        kinds: &["artist"],
        known: &[
            "The painter {n} had a workshop in {birthplace_city}.",
            "The pictures of {n} hang in the {@museum}.",
            "{n} painted {@painting}.",
            "{n} painted mostly {=thing}.",
            "A drawing by {n} was found in {@city}.",
        ],
        held_out: &[
            "An exhibition of {n} opened in the {@museum}.",
            "The brushes of {n} are kept in {@city}.",
        ],
    },
    Frames {
        kinds: &["scientist"],
        known: &[
            "{n} discovered {@element}.",
            "{n} worked in the field of {field}.",
            "The theory of {n} explains {=thing}.",
            "{n} is known for {known_for}.",
            "The scientist {n} taught in {@city}.",
            "In {=year} {n} measured the length of the {@river}.",
            "{n} saw the moon {@moon} in {=year}.",
        ],
        held_out: &[
            "Students of {n} proved it in {=year}.",
            "{n}'s laboratory in {@city} studied {field}.",
        ],
    },
    Frames {
        kinds: &["composer"],
        known: &[
            "The composer {n} wrote {work}.",
            "{n} composed {work}.",
            "The music of {n} was played on {=day}.",
            "{n} played the organ in {@city}.",
            "The symphonies of {n} are {=adjective}.",
            "{work} made {n} famous.",
        ],
        held_out: &[
            "The orchestra of {@city} plays {n} every {=month}.",
            "{n} conducted {work} himself.",
        ],
    },
    Frames {
        kinds: &["company"],
        known: &[
            "{n} makes {product}.",
            "{n} is a company in {seat}.",
            "{n} was founded in {founded}.",
            "{=first} works for {n}.",
            "The company {n} opened an office in {@city}.",
            "Shares of {n} fell on {=day}.",
            "{n} of {seat} sells {product}.",
            "{n} bought {@company} in {=year}.",
            "The workers of {n} went on strike in {=month}.",
        ],
        held_out: &[
            "The factory of {n} in {seat} makes {product}.",
            "{=first} complained to {n} about the {=noun}.",
            "{n} pays its staff in {@currency}.",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linking::kinds;

    #[test]
    fn no_held_out_sentence_is_ever_taught() {
        let all = || FRAMES.iter().chain([&NOTHING]);
        let known: Vec<_> = all().flat_map(|frames| frames.known).collect();
        for sentence in all().flat_map(|frames| frames.held_out) {
            assert!(!known.contains(&sentence), "{sentence} is taught");
        }
    }

    #[test]
    fn every_kind_has_sentences_of_both_wordings() {
        for kind in kinds::all() {
            for wording in [Wording::Known, Wording::Unknown] {
                assert!(about(kind.name, wording).count() > 1, "{}", kind.name);
            }
        }
    }
}
