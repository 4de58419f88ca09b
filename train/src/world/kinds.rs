//! The kinds of entities in the invented world and in the almanac, and their attributes.
//!
//! One table serves both, so the almanac's passages are worded like those of training, although
//! training had none of the almanac's names. In statements and questions `{n}` stands for the
//! entity's name and `{v}` for the value; in questions, `{n}` may also be "the author of …".

/// How an entity of a kind gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// "Drelland"
    Place,
    /// "Ada Voss"
    Person,
    /// "The Silent River"
    Title,
    /// "quarn": a common noun, written in lower case inside a sentence
    Word,
}

/// Where an attribute's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Another entity of that kind, which a second hop can follow
    Entity(&'static str),
    /// The name of a place
    Place,
    /// The names of one to six places
    Places,
    /// The name of one or two people
    People,
    /// The title of a work
    Title,
    /// An invented lower-case word
    Word,
    /// One or two lower-case words
    Phrase,
    /// A language
    Language,
    /// A chemical symbol
    Symbol,
    /// A year
    Year,
    /// A number of at most three digits
    Count,
    /// "34 million"
    Population,
    /// "first" to "twelfth"
    Ordinal,
    /// "88 days"
    Duration,
    /// "6,650 kilometres"
    Length,
    /// "8,849 metres"
    Height,
}

/// One fact that can be stated and asked about an entity.
#[derive(Debug)]
pub struct Attribute {
    /// The almanac's column
    pub key: &'static str,
    /// What it is called in "the … of {n}"; the first is used in answers
    pub nouns: &'static [&'static str],
    /// Where the value comes from
    pub value: Value,
    /// Sentences that state it
    pub statements: &'static [&'static str],
    /// Its own questions, besides "What is the … of {n}?"
    pub questions: &'static [&'static str],
    /// Questions that training never shows
    pub held_out: &'static [&'static str],
    /// Follow-up questions that name no entity, besides "And its …?"
    pub follow_ups: &'static [&'static str],
}

/// A kind of entity.
#[derive(Debug)]
pub struct Kind {
    /// The almanac's file name is its plural
    pub name: &'static str,
    /// What it is called in a sentence
    pub noun: &'static str,
    /// How it is named
    pub naming: Naming,
    /// The first attribute opens the passage
    pub attributes: &'static [Attribute],
}

macro_rules! attribute {
    ($key:literal $nouns:tt $value:expr; $statements:tt $questions:tt $held_out:tt $follow_ups:tt) => {
        Attribute {
            key: $key,
            nouns: &$nouns,
            value: $value,
            statements: &$statements,
            questions: &$questions,
            held_out: &$held_out,
            follow_ups: &$follow_ups,
        }
    };
}

use Value::{
    Count, Duration, Entity, Height, Language, Length, Ordinal, People, Phrase, Place, Places,
    Population, Symbol, Title, Word, Year,
};

/// Every kind.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    Kind { name: "country", noun: "country", naming: Naming::Place, attributes: &[
        attribute!("continent" ["continent"] Place; ["{n} is a country in {v}."] ["What continent does {n} belong to?", "In which part of the world is {n}?", "Where in the world does {n} lie?", "Which continent is {n} in?", "On which continent does {n} lie?", "Where is {n}?"] ["What continent is {n} part of?", "Where in the world is {n}?"] ["Where is it?", "Which continent is it in?"]),
        attribute!("capital" ["capital", "capital city"] Place; ["Its capital is {v}.", "The capital is {v}.", "The capital of {n} is {v}.", "Its capital city is {v}."] ["Which city is the capital of {n}?", "What city is the capital of {n}?", "Where is the government of {n}?", "In which city does the government of {n} sit?", "Which city governs {n}?"] ["Which city serves as capital of {n}?", "From which city is {n} governed?"] ["Which city is its capital?"]),
        attribute!("currency" ["currency", "money"] Word; ["Its currency is the {v}.", "The currency is the {v}.", "People there pay with the {v}.", "The currency of {n} is the {v}."] ["What currency does {n} use?", "What is used as money in {n}?", "How do you pay in {n}?", "Which currency do people use in {n}?", "What do people pay with in {n}?", "Which money is used in {n}?", "Which currency is used in {n}?"] ["What currency do they use in {n}?", "With what money do you pay in {n}?"] ["What do people pay with there?", "Which currency is used there?"]),
        attribute!("language" ["language", "official language"] Language; ["People speak {v}.", "Its official language is {v}.", "The official language is {v}.", "The language of {n} is {v}."] ["Which language is used in {n}?", "What language do people use in {n}?", "Which language is spoken in {n}?", "What is the official language in {n}?", "What language is spoken in {n}?", "Which language do people speak in {n}?", "What do people speak in {n}?"] ["What language do they speak in {n}?", "Which language is official in {n}?"] ["What language is spoken there?", "What do people speak there?"]),
        attribute!("neighbours" ["neighbours"] Places; ["It borders {v}.", "Its neighbours are {v}.", "{n} borders {v}."] ["What countries border {n}?", "Which countries lie around {n}?", "What are the countries next to {n}?", "Who are the neighbours of {n}?", "Which countries border {n}?", "What does {n} border?", "Which countries are next to {n}?"] ["What countries lie next to {n}?", "Who borders {n}?"] ["What does it border?", "Which countries border it?"]),
        attribute!("population" ["population"] Population; ["It has a population of {v}.", "About {v} people live there.", "Its population is {v}."] ["What is the number of people in {n}?", "How big is the population of {n}?", "How many people does {n} have?", "How many people live in {n}?", "How many inhabitants does {n} have?"] ["How large is the population of {n}?", "How many people are there in {n}?"] ["How many people live there?"]),
        attribute!("largest_city" ["largest city", "biggest city"] Place; ["Its largest city is {v}.", "The largest city is {v}."] ["Which city is the largest in {n}?", "What is the largest town in {n}?", "Which city in {n} is the biggest?", "Which town is the biggest in {n}?"] ["Which is the biggest town in {n}?"] ["Which city is the largest there?"]),
    ] },
    Kind { name: "element", noun: "chemical element", naming: Naming::Word, attributes: &[
        attribute!("symbol" ["symbol", "chemical symbol"] Symbol; ["{n} is a chemical element with the symbol {v}.", "{n} is an element whose symbol is {v}."] ["What is the sign for {n}?", "What do chemists write for {n}?", "Which letters are used for {n}?", "What is the short form of {n}?", "What symbol does {n} have?", "Which symbol stands for {n}?", "How is {n} written in chemistry?"] ["What letters stand for {n}?", "How do chemists abbreviate {n}?"] ["Which symbol does it have?"]),
        attribute!("number" ["atomic number", "number"] Count; ["Its atomic number is {v}.", "The atomic number is {v}.", "It has the atomic number {v}."] ["Where does {n} stand in the periodic table?", "Which number does {n} have in the periodic table?", "Which atomic number does {n} have?", "How many protons does {n} have?"] ["What number is {n} in the periodic table?", "How many protons are in {n}?"] ["How many protons does it have?"]),
        attribute!("group" ["group", "family"] Phrase; ["It belongs to the group {v}.", "Its group is {v}.", "The group of {n} is {v}."] ["What type of element is {n}?", "Which family of elements does {n} belong to?", "What sort of element is this {n}?", "Which group does {n} belong to?", "What kind of element is {n}?"] ["To which family of elements does {n} belong?", "What sort of element is {n}?"] ["Which group does it belong to?"]),
        attribute!("discoverer" ["discoverer"] People; ["It was discovered by {v}.", "Its discoverer was {v}."] ["Whose discovery was {n}?", "By which person was {n} discovered?", "Who was first to find {n}?", "Who discovered {n}?", "Who found {n}?"] ["By whom was {n} discovered?", "Who first found {n}?"] ["Who discovered it?", "Who found it?"]),
        attribute!("year" ["year of discovery"] Year; ["The year of its discovery is {v}.", "It was found in {v}.", "It was discovered in {v}."] ["In what year was {n} discovered?", "Which year was {n} discovered?", "When was {n} discovered?", "When was {n} found?"] ["In which year was {n} discovered?", "What year was {n} found?"] ["When was it discovered?", "When was it found?"]),
    ] },
    Kind { name: "planet", noun: "planet", naming: Naming::Place, attributes: &[
        attribute!("kind" ["type", "kind"] Phrase; ["{n} is a {v}.", "{n} is a {v} of the solar system."] ["What type of body is {n}?", "What kind of thing is {n}?"] ["What sort of body is {n}?"] ["What kind of thing is it?"]),
        attribute!("position" ["position", "place from the sun"] Ordinal; ["It is the {v} planet from the Sun.", "Its position from the Sun is the {v}."] ["How far from the sun is {n} in the row?", "What is the place of {n} among the planets?", "Which place from the sun does {n} have?", "Which planet from the sun is {n}?"] ["How far down the row of planets is {n}?"] ["Which planet from the sun is it?"]),
        attribute!("moons" ["number of moons"] Count; ["It has {v} moons.", "{n} has {v} moons.", "Its number of moons is {v}."] ["What number of moons does {n} have?", "How many moons are around {n}?", "How many moons does {n} have?", "How many moons go round {n}?"] ["How many moons are there around {n}?"] ["How many moons does it have?"]),
        attribute!("day" ["length of a day", "day"] Duration; ["A day there lasts {v}.", "A day on {n} lasts {v}."] ["How much time is a day on {n}?", "What time does a day take on {n}?", "How long is a day on {n}?", "How long does a day last on {n}?"] ["How much time does a day take on {n}?"] ["How long is a day there?"]),
        attribute!("year" ["length of a year", "year"] Duration; ["A year there lasts {v}.", "A year on {n} lasts {v}."] ["How much time is a year on {n}?", "What time does a year take on {n}?", "How long is a year on {n}?", "How long does a year last on {n}?"] ["How much time does a year take on {n}?"] ["How long is a year there?"]),
        attribute!("largest_moon" ["largest moon", "biggest moon"] Place; ["Its largest moon is {v}.", "The largest moon is {v}."] ["Which moon of {n} is the largest?"] ["Which is the biggest moon around {n}?"] ["Which moon is the largest there?"]),
    ] },
    Kind { name: "moon", noun: "moon", naming: Naming::Place, attributes: &[
        attribute!("planet" ["planet"] Entity("planet"); ["{n} is a moon of {v}."] ["Which planet does {n} go around?", "What planet is {n} a moon of?", "Which planet does {n} circle?", "What does {n} orbit?", "Which planet does {n} belong to?"] ["Around which planet does {n} go?"] ["Which planet does it circle?", "What does it orbit?"]),
        attribute!("discoverer" ["discoverer"] People; ["It was discovered by {v}.", "Its discoverer was {v}."] ["Whose discovery was {n}?", "By which person was {n} discovered?", "Who was first to find {n}?", "Who discovered {n}?", "Who found {n}?"] ["By whom was {n} discovered?"] ["Who discovered it?", "Who found it?"]),
        attribute!("year" ["year of discovery"] Year; ["It was discovered in {v}.", "The year of its discovery is {v}.", "It was found in {v}."] ["In what year was {n} discovered?", "Which year was {n} discovered?", "When was {n} discovered?", "When was {n} found?"] ["In which year was {n} discovered?"] ["When was it discovered?", "When was it found?"]),
    ] },
    Kind { name: "state", noun: "state", naming: Naming::Place, attributes: &[
        attribute!("country" ["country"] Entity("country"); ["{n} is a state of the {v}.", "{n} is a state of {v}."] ["What country is {n} part of?", "To which country does {n} belong?", "Which country is {n} a state of?", "In which country is {n}?"] ["What country does {n} belong to?"] ["Which country is it in?"]),
        attribute!("capital" ["capital", "capital city"] Place; ["Its capital is {v}.", "The capital is {v}.", "The capital of {n} is {v}.", "Its capital city is {v}."] ["Which city is the capital of {n}?", "What city is the capital of {n}?", "Where is the government of {n}?", "In which city does the government of {n} sit?", "Which city governs {n}?"] ["Which city serves as capital of {n}?"] ["Which city is its capital?"]),
        attribute!("largest_city" ["largest city", "biggest city"] Place; ["Its largest city is {v}.", "The largest city is {v}."] ["Which city is the largest in {n}?", "What is the largest town in {n}?", "Which city in {n} is the biggest?", "Which town is the biggest in {n}?"] ["Which is the biggest town in {n}?"] ["Which city is the largest there?"]),
        attribute!("nickname" ["nickname"] Title; ["Its nickname is {v}.", "It is called {v}."] ["By what name is {n} known?", "What other name does {n} have?", "What is {n} called?", "What do people call {n}?"] ["By what nickname is {n} known?"] ["What is it called?"]),
        attribute!("year" ["year of admission"] Year; ["It became a state in {v}.", "Its year of admission is {v}."] ["When did {n} become a state?"] ["In which year did {n} become a state?"] ["When did it become a state?"]),
        attribute!("bird" ["bird", "state bird"] Phrase; ["Its bird is the {v}.", "The state bird is the {v}."] ["Which bird stands for {n}?", "What is the bird of {n}?", "What bird does {n} have?"] ["What bird represents {n}?"] ["Which bird stands for it?"]),
    ] },
    Kind { name: "river", noun: "river", naming: Naming::Place, attributes: &[
        attribute!("country" ["country"] Entity("country"); ["{n} is a river in {v}.", "The {n} is a river in {v}."] ["In what country is the river {n}?", "Where would you find the {n}?", "In which country is the river {n}?", "Where does the {n} flow?", "Which country does {n} flow through?"] ["In what country would you find the river {n}?"] ["Which country is it in?", "Where does it flow?"]),
        attribute!("continent" ["continent"] Place; ["Its continent is {v}.", "The continent is {v}."] ["Which continent is the river {n} in?"] ["On what continent is the {n}?"] ["Which continent is it in?"]),
        attribute!("length" ["length"] Length; ["It is {v} long.", "Its length is {v}.", "The length of the {n} is {v}."] ["What is the whole length of {n}?", "How many kilometres is {n} long?", "What distance does {n} run?", "How long is {n}?", "How long is the river {n}?", "How long is the {n}?"] ["What distance does the {n} cover?"] ["How long is it?"]),
        attribute!("mouth" ["mouth"] Place; ["It flows into the {v}.", "Its mouth is the {v}."] ["Which water does {n} flow into?", "What does the {n} reach in the end?", "Where does {n} end?", "Into what does the {n} flow?", "Which sea does {n} flow into?"] ["Which water does the {n} reach?"] ["Where does it end?", "Into what does it flow?"]),
    ] },
    Kind { name: "mountain", noun: "mountain", naming: Naming::Place, attributes: &[
        attribute!("country" ["country"] Entity("country"); ["{n} is a mountain in {v}."] ["In what country is {n}?", "Where would you find {n}?", "In which country is {n}?", "Where does {n} stand?", "Which country is {n} in?"] ["In what country would you find {n}?"] ["Which country is it in?", "Where does it stand?"]),
        attribute!("range" ["range", "mountain range"] Place; ["It belongs to the {v}.", "Its range is the {v}."] ["Which range does {n} belong to?", "What range is {n} part of?", "In which mountains is {n}?", "Which mountains does {n} belong to?"] ["Which mountains is {n} part of?"] ["Which range does it belong to?"]),
        attribute!("height" ["height"] Height; ["It is {v} high.", "Its height is {v}.", "The height of {n} is {v}."] ["How many metres high is {n}?", "What height does {n} have?", "How high is {n}?", "How tall is {n}?"] ["What height does {n} reach?"] ["How high is it?", "How tall is it?"]),
        attribute!("year" ["first ascent", "year of the first ascent"] Year; ["It was first climbed in {v}.", "The year of the first ascent is {v}."] ["In what year was {n} climbed?", "When did someone first stand on {n}?", "When was {n} first climbed?", "When was {n} climbed?"] ["In which year did someone first climb {n}?"] ["When was it first climbed?", "When was it climbed?"]),
    ] },
    Kind { name: "book", noun: "book", naming: Naming::Title, attributes: &[
        attribute!("author" ["author", "writer"] Entity("author"); ["{n} is a work by {v}.", "{n} was written by {v}."] ["Whose book is {n}?", "By which author is {n}?", "Which author wrote {n}?", "Who wrote {n}?", "Who is the author of {n}?", "Who was the author of {n}?"] ["By whom was {n} written?", "Whose work is {n}?"] ["Who wrote it?", "Who is the author?"]),
        attribute!("genre" ["genre"] Phrase; ["Its genre is {v}.", "The genre is {v}.", "It is a {v}."] ["What sort of book is {n}?", "What kind of work is {n}?", "What kind of book is {n}?", "Which genre does {n} belong to?"] ["What sort of work is {n}?"] ["What kind of book is it?"]),
        attribute!("year" ["year", "year of publication"] Year; ["It appeared in {v}.", "It was published in {v}.", "Its year is {v}."] ["In what year was {n} written?", "When did {n} come out?", "In which year was {n} published?", "When was {n} written?", "When was {n} published?", "When did {n} appear?"] ["In which year did {n} come out?"] ["When was it written?", "When was it published?", "When did it appear?"]),
        attribute!("language" ["language", "original language"] Language; ["Its language is {v}.", "It was written in {v}.", "The original language is {v}."] ["Which language was {n} first written in?", "In what language did {n} appear?", "In which language was {n} written?", "What language is {n} in?"] ["What language was {n} first written in?"] ["In which language was it written?"]),
    ] },
    Kind { name: "author", noun: "writer", naming: Naming::Person, attributes: PERSON_WRITER },
    Kind { name: "painting", noun: "work of art", naming: Naming::Title, attributes: &[
        attribute!("artist" ["artist", "maker"] Entity("artist"); ["{n} is a work of art by {v}.", "{n} was made by {v}."] ["Which artist made {n}?", "Whose picture is {n}?", "By which artist is {n}?", "Who painted {n}?", "Who made {n}?", "Who is the artist of {n}?"] ["By whom was {n} made?", "Whose work is {n}?"] ["Who painted it?", "Who made it?", "Who is the artist?"]),
        attribute!("year" ["year"] Year; ["It dates from {v}.", "Its year is {v}.", "It was finished in {v}."] ["In what year was {n} made?", "In which year was {n} painted?", "When was {n} painted?", "When was {n} made?", "When was {n} finished?"] ["In which year was {n} made?"] ["When was it painted?", "When was it made?"]),
        attribute!("museum" ["museum"] Place; ["It hangs in the museum {v}.", "Its museum is the {v}.", "It is kept in the {v}."] ["In which museum is {n}?", "What museum is {n} in?", "Which museum has {n}?", "Where can I see {n}?", "Where is {n} kept?"] ["In what museum does {n} hang?"] ["Which museum has it?", "Where can I see it?"]),
        attribute!("city" ["city"] Place; ["The city is {v}.", "It can be seen in {v}."] ["In which city is {n}?", "What city is {n} in?", "Which city do I visit to see {n}?"] ["Which city would I visit for {n}?"] ["In which city is it?"]),
    ] },
    Kind { name: "artist", noun: "artist", naming: Naming::Person, attributes: PERSON_ARTIST },
    Kind { name: "scientist", noun: "scientist", naming: Naming::Person, attributes: &[
        attribute!("field" ["field"] Phrase; ["{n} was a scientist in the field of {v}.", "{n} worked in {v}."] ["What was the field of {n}?", "Which subject did {n} work on?", "What subject did {n} study?", "In which field did {n} work?", "What did {n} work on?"] ["What was the subject of {n}?"] ["In which field did {p} work?"]),
        PERSON_COUNTRY, PERSON_CITY, PERSON_BORN, PERSON_DIED,
        attribute!("known_for" ["achievement"] Phrase; ["{n} is known for {v}.", "The achievement of {n} is {v}."] ["Why is {n} famous?", "What made {n} known?", "What is {n} known for?", "What is {n} famous for?"] ["What made {n} famous?"] ["What is {p} known for?", "What is {p} famous for?"]),
    ] },
    Kind { name: "composer", noun: "composer", naming: Naming::Person, attributes: &[
        attribute!("work" ["work", "famous work"] Title; ["{n} was a composer who wrote {v}.", "{n} composed {v}."] ["Which piece is by {n}?", "Which piece of music did {n} write?", "What did {n} compose?", "Which work is {n} known for?"] ["Which piece did {n} compose?"] ["What did {p} compose?"]),
        PERSON_COUNTRY, PERSON_CITY, PERSON_BORN, PERSON_DIED,
    ] },
    Kind { name: "animal", noun: "animal", naming: Naming::Word, attributes: &[
        attribute!("class" ["class"] Phrase; ["The {n} is a {v}.", "The {n} belongs to the class {v}."] ["What sort of animal is the {n}?", "What kind of creature is the {n}?", "What kind of animal is the {n}?", "Which class does the {n} belong to?", "What kind of animal is a {n}?"] ["What sort of creature is a {n}?"] ["What kind of animal is it?"]),
        attribute!("food" ["food", "diet"] Phrase; ["It eats {v}.", "Its food is {v}.", "The {n} feeds on {v}."] ["What does the {n} feed on?", "What food does the {n} like?", "What does the {n} eat?", "What do {n} animals eat?", "What does a {n} eat?"] ["On what does the {n} feed?"] ["What does it eat?"]),
        attribute!("habitat" ["habitat", "home"] Phrase; ["It lives in {v}.", "Its habitat is {v}."] ["Where can I find the {n}?", "Where would you see a {n}?", "Where does the {n} live?", "Where does a {n} live?"] ["Where would I find a {n}?"] ["Where does it live?"]),
        attribute!("young" ["young"] Word; ["Its young is called {v}.", "The young of the {n} is called {v}."] ["What do you call a young {n}?", "What is the baby of the {n} called?", "What is a young {n} called?", "What is the young of the {n} called?"] ["What do you call a baby {n}?"] ["What is its young called?"]),
        attribute!("group_name" ["group"] Word; ["A group of them is called {v}.", "Its group is called {v}."] ["What is a group of {n} called?", "What do you call a group of {n}?", "What are many {n} called?"] ["What do you call many {n} together?"] ["What is a group of them called?"]),
    ] },
    // These kinds are only in the invented world, so that the model sees more kinds of documents.
    Kind { name: "city", noun: "city", naming: Naming::Place, attributes: &[
        attribute!("country" ["country"] Entity("country"); ["{n} is a city in {v}."] ["In which country is {n}?", "Which country is {n} in?", "Where is {n}?"] ["In what country would you find {n}?"] ["Which country is it in?", "Where is it?"]),
        attribute!("mayor" ["mayor"] People; ["Its mayor is {v}.", "The mayor of {n} is {v}."] ["Who is mayor in {n}?", "Which mayor runs the city of {n}?", "Who is the mayor of {n}?", "Who governs {n}?"] ["Who runs {n}?"] ["Who is its mayor?"]),
        attribute!("river" ["river"] Place; ["It lies on the {v}.", "Its river is the {v}."] ["What river is in {n}?", "Which river runs through {n}?", "Which river flows through {n}?", "On which river does {n} lie?"] ["What river runs through {n}?"] ["Which river flows through it?"]),
        attribute!("founded" ["year of foundation"] Year; ["It was founded in {v}.", "Its year of foundation is {v}."] ["When was {n} founded?"] ["In which year was {n} founded?"] ["When was it founded?"]),
        attribute!("population" ["population"] Population; ["It has a population of {v}.", "About {v} people live there.", "Its population is {v}."] ["What is the number of people in {n}?", "How big is the population of {n}?", "How many people does {n} have?", "How many people live in {n}?", "How many inhabitants does {n} have?"] ["How large is the population of {n}?"] ["How many people live there?"]),
    ] },
    Kind { name: "company", noun: "company", naming: Naming::Title, attributes: &[
        attribute!("product" ["product"] Phrase; ["{n} is a company that makes {v}."] ["What does {n} produce?", "What product does the company {n} make?", "What does {n} make?", "What does {n} sell?"] ["What does the company {n} produce?"] ["What does it make?", "What does it sell?"]),
        attribute!("founder" ["founder"] People; ["It was founded by {v}.", "Its founder is {v}."] ["Who was the founder of {n}?", "Who set up {n}?", "Who founded {n}?", "Who started {n}?"] ["By whom was {n} founded?"] ["Who founded it?", "Who started it?"]),
        attribute!("seat" ["headquarters", "seat"] Place; ["Its headquarters is in {v}.", "It has its seat in {v}."] ["Where are the headquarters of {n}?", "Where would you find {n}?", "Where is {n} based?", "Where does {n} have its seat?"] ["Where would I find the headquarters of {n}?"] ["Where is it based?"]),
        attribute!("founded" ["year of foundation"] Year; ["It was founded in {v}.", "Its year of foundation is {v}."] ["When was {n} founded?", "When did {n} start?"] ["In which year was {n} founded?"] ["When was it founded?"]),
    ] },
];

#[rustfmt::skip]
const PERSON_COUNTRY: Attribute = attribute!("country" ["country", "home country"] Entity("country"); ["{n} came from {v}.", "The country of {n} is {v}."] ["From which country was {n}?", "What country was {n} from?", "Which country did {n} come from?", "Where did {n} come from?", "Which country is {n} from?"] ["From what country was {n}?"] ["Which country did {p} come from?", "Where did {p} come from?"]);
#[rustfmt::skip]
const PERSON_CITY: Attribute = attribute!("birthplace_city" ["birthplace"] Place; ["The birthplace is {v}.", "{n} was born in {v}."] ["What is the home town of {n}?", "In what town was {n} born?", "Where was {n} born?", "In which city was {n} born?", "In which town was {n} born?"] ["What is the native town of {n}?"] ["Where was {p} born?", "In which city was {p} born?"]);
#[rustfmt::skip]
const PERSON_BORN: Attribute = attribute!("born" ["year of birth"] Year; ["The year of birth is {v}.", "{n} was born in the year {v}."] ["In what year was {n} born?", "Which year was {n} born in?", "When was {n} born?", "What year was {n} born?"] ["In which year was {n} born?"] ["When was {p} born?", "What year was {p} born?"]);
#[rustfmt::skip]
const PERSON_DIED: Attribute = attribute!("died" ["year of death"] Year; ["The year of death is {v}.", "{n} died in {v}."] ["In what year did {n} die?", "Which year did {n} die in?", "When did {n} die?", "What year did {n} die?"] ["In which year did {n} die?"] ["When did {p} die?"]);
#[rustfmt::skip]
const PERSON_WRITER: &[Attribute] = &[
    attribute!("profession" ["profession", "job"] Phrase; ["{n} was a {v}."] ["What was the work of {n}?", "How did {n} make a living?", "What did {n} do in life?", "What was {n}?", "What did {n} do?"] ["What did {n} do for a living?"] ["What did {p} do?"]),
    PERSON_COUNTRY, PERSON_CITY, PERSON_BORN, PERSON_DIED,
];
#[rustfmt::skip]
const PERSON_ARTIST: &[Attribute] = PERSON_WRITER;

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_held_out_question_is_ever_taught() {
        for kind in KINDS {
            let known = kind
                .attributes
                .iter()
                .flat_map(|attribute| attribute.questions);
            let known: Vec<_> = known.collect();
            for question in kind
                .attributes
                .iter()
                .flat_map(|attribute| attribute.held_out)
            {
                assert!(!known.contains(&question), "{question} of a {}", kind.name);
            }
        }
    }
}
