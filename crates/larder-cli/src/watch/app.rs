//! [`App`]: what is shown, and what keys change of it.

use std::collections::VecDeque;

use ratatui::crossterm::event::KeyCode;

use crate::fleet::{Fleet, Flow};
use crate::stats::Sort;
use larder::stats::FleetStats;

/// How many looks are kept for the curves: some minutes.
const KEPT: usize = 300;

pub(super) struct App {
    pub(super) namespace: String,
    pub(super) fleet: Fleet,
    /// From the oldest to the newest.
    pub(super) past: VecDeque<Flow>,
    pub(super) sort: Sort,
    pub(super) scroll: usize,
    pub(super) help: bool,
    /// Whether anybody was asked yet, and whether Redis answered the last time.
    pub(super) asked: bool,
    pub(super) answered: bool,
}

const SORTS: [Sort; 6] =
    [Sort::Reads, Sort::Postgres, Sort::Loads, Sort::Errors, Sort::Hits, Sort::Name];

impl App {
    pub(super) fn new(namespace: String) -> App {
        App {
            namespace,
            fleet: Fleet::default(),
            past: VecDeque::new(),
            sort: Sort::Reads,
            scroll: 0,
            help: false,
            asked: false,
            answered: false,
        }
    }

    /// Takes in what the fleet publishes; `None` if Redis did not answer.
    pub(super) fn observe(&mut self, roll: Option<FleetStats>) {
        self.asked = true;
        self.answered = roll.is_some();
        let Some(roll) = roll else { return };
        self.fleet.observe(roll);
        if self.fleet.flows() {
            self.past.push_back(self.fleet.flow().0);
        }
        if self.past.len() > KEPT {
            self.past.pop_front();
        }
    }

    pub(super) fn press(&mut self, key: KeyCode) {
        let at = SORTS.iter().position(|sort| *sort == self.sort).unwrap_or(0);
        match key {
            KeyCode::Char('s') | KeyCode::Right => self.sort = SORTS[(at + 1) % SORTS.len()],
            KeyCode::Left => self.sort = SORTS[(at + SORTS.len() - 1) % SORTS.len()],
            KeyCode::Down => {
                let last = self.fleet.flow().1.len().saturating_sub(1);
                self.scroll = (self.scroll + 1).min(last);
            }
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Char('?') | KeyCode::Char('h') => self.help = !self.help,
            _ => {}
        }
    }
}
