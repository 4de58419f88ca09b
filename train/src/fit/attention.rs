//! Attention among the segments of a pack, forward and backward.

use std::ops::Range;

use super::elementwise::{Rotations, dot, exp_of_differences};
use super::pack::{Pack, Segment};
use super::product::{Element, Rows};
use crate::ops::{TransposedFactor, product};

/// The sizes of a layer's attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Query heads
    pub(super) queries: usize,
    /// Key and value heads; divides the number of query heads
    pub(super) keys: usize,
    /// Width of a head
    pub(super) dim: usize,
}

impl Heads {
    /// Query heads that share a key head.
    fn group(self) -> usize {
        self.queries / self.keys
    }
}

/// Queries, keys and values before rotation: (tokens, heads · dim) each.
pub(super) struct Projections<'a, E> {
    pub(super) q: &'a Rows<E>,
    pub(super) k: &'a Rows<E>,
    pub(super) v: &'a Rows<E>,
}

/// The gradients of the same, in f32.
pub(super) struct ProjectionGradients<'a> {
    pub(super) q: &'a mut [f32],
    pub(super) k: &'a mut [f32],
    pub(super) v: &'a mut [f32],
}

/// Attention among a batch's packs.
pub(super) struct Attention<'a> {
    pub(super) heads: Heads,
    pub(super) rotations: &'a Rotations,
    pub(super) packs: &'a [Pack],
}

/// The matrices of one key head of one segment, all row-major.
struct Piece {
    /// (tokens · group, dim), rotated to their positions and scaled
    queries: Vec<f32>,
    /// (seen tokens and own, dim), rotated to their positions
    keys: Vec<f32>,
    /// (seen tokens and own, dim)
    values: Vec<f32>,
    /// Where each key comes from: its token in the batch and its position
    sources: Vec<(usize, usize)>,
    /// Its tokens in the batch
    tokens: Range<usize>,
}

impl Attention<'_> {
    /// Writes each token's attended values to `out`, (tokens, query heads · dim).
    pub(super) fn forward<E: Element>(&self, projected: &Projections<'_, E>, out: &mut [f32]) {
        let Heads { dim, .. } = self.heads;
        let mut weights = Vec::new();
        let mut attended = Vec::new();
        self.for_pieces(|segment, tokens, sources, head| {
            let piece = self.piece(projected, segment, tokens, sources, head);
            self.weights(&piece, &mut weights);
            let (rows, seen) = (piece.queries.len() / dim, piece.sources.len());
            attended.resize(rows * dim, 0.0);
            let sizes = (rows, seen, dim);
            product(
                &weights,
                &piece.values,
                &mut attended,
                sizes,
                TransposedFactor::Ab,
                1.0,
                false,
            );
            self.scatter(out, &piece.tokens, head, &attended);
        });
    }

    /// Adds the gradients of queries, keys and values, given that of [`Self::forward`]'s output and the
    /// output itself.
    pub(super) fn backward<E: Element>(
        &self,
        projected: &Projections<'_, E>,
        out: &Rows<E>,
        dout: &[f32],
        gradients: &mut ProjectionGradients<'_>,
    ) {
        let Heads { dim, .. } = self.heads;
        let scale = (dim as f32).powf(-0.5);
        let mut weights = Vec::new();
        let mut dweights = Vec::new();
        self.for_pieces(|segment, tokens, sources, head| {
            let piece = self.piece(projected, segment, tokens, sources, head);
            self.weights(&piece, &mut weights);
            let (rows, seen) = (piece.queries.len() / dim, piece.sources.len());
            let dattended = self.gather(dout, &piece.tokens, head);
            let attended = self.gather_rows(out, &piece.tokens, head);
            let mut dvalues = vec![0.0; seen * dim];
            product(
                &weights,
                &dattended,
                &mut dvalues,
                (seen, rows, dim),
                TransposedFactor::Atb,
                1.0,
                false,
            );
            dweights.resize(rows * seen, 0.0);
            product(
                &dattended,
                &piece.values,
                &mut dweights,
                (rows, dim, seen),
                TransposedFactor::Abt,
                1.0,
                false,
            );
            // The softmax's gradient: w · (dw - Σ w dw), and the sum is the output times its gradient.
            for (((weights, dweights), attended), dattended) in (weights.chunks_exact(seen))
                .zip(dweights.chunks_exact_mut(seen))
                .zip(attended.chunks_exact(dim))
                .zip(dattended.chunks_exact(dim))
            {
                let sum = dot(attended, dattended);
                for (dweight, weight) in dweights.iter_mut().zip(weights) {
                    *dweight = weight * (*dweight - sum);
                }
            }
            let mut dqueries = vec![0.0; rows * dim];
            product(
                &dweights,
                &piece.keys,
                &mut dqueries,
                (rows, seen, dim),
                TransposedFactor::Ab,
                scale,
                false,
            );
            let mut dkeys = vec![0.0; seen * dim];
            // The queries are already scaled.
            product(
                &dweights,
                &piece.queries,
                &mut dkeys,
                (seen, rows, dim),
                TransposedFactor::Atb,
                1.0,
                false,
            );
            let group = self.heads.group();
            for (row, dquery) in dqueries.chunks_exact_mut(dim).enumerate() {
                self.rotations
                    .turn_back(dquery, segment.position + row / group);
            }
            self.scatter(gradients.q, &piece.tokens, head, &dqueries);
            let width = self.heads.keys * dim;
            for (((token, position), dkey), dvalue) in (piece.sources.iter())
                .zip(dkeys.chunks_exact_mut(dim))
                .zip(dvalues.chunks_exact(dim))
            {
                self.rotations.turn_back(dkey, *position);
                let place = token * width + head * dim..token * width + (head + 1) * dim;
                for (sum, d) in gradients.k[place.clone()].iter_mut().zip(&*dkey) {
                    *sum += d;
                }
                for (sum, d) in gradients.v[place].iter_mut().zip(dvalue) {
                    *sum += d;
                }
            }
        });
    }

    /// Calls `each` for every segment of every pack and every key head.
    fn for_pieces(&self, mut each: impl FnMut(&Segment, Range<usize>, &[(usize, usize)], usize)) {
        let mut first = 0;
        for pack in self.packs {
            let ranges = pack.ranges();
            for (segment, range) in pack.segments.iter().zip(&ranges) {
                let seen = segment.sees.iter().flat_map(|seen| {
                    let tokens = ranges[seen.segment].clone();
                    tokens.zip(seen.position..)
                });
                let own = range.clone().zip(segment.position..);
                let sources: Vec<_> = seen
                    .chain(own)
                    .map(|(token, position)| (first + token, position))
                    .collect();
                let tokens = first + range.start..first + range.end;
                for head in 0..self.heads.keys {
                    each(segment, tokens.clone(), &sources, head);
                }
            }
            first += pack.tokens();
        }
    }

    fn piece<E: Element>(
        &self,
        projected: &Projections<'_, E>,
        segment: &Segment,
        tokens: Range<usize>,
        sources: &[(usize, usize)],
        head: usize,
    ) -> Piece {
        let Heads { dim, .. } = self.heads;
        let scale = (dim as f32).powf(-0.5);
        let mut queries = self.gather_rows(projected.q, &tokens, head);
        for (row, query) in queries.chunks_exact_mut(dim).enumerate() {
            let position = segment.position + row / self.heads.group();
            self.rotations.turn(query, position);
            query.iter_mut().for_each(|x| *x *= scale);
        }
        let mut keys = vec![0.0; sources.len() * dim];
        let mut values = vec![0.0; sources.len() * dim];
        for (((token, position), key), value) in (sources.iter())
            .zip(keys.chunks_exact_mut(dim))
            .zip(values.chunks_exact_mut(dim))
        {
            let place = head * dim..(head + 1) * dim;
            widen(&projected.k.row(*token)[place.clone()], key);
            self.rotations.turn(key, *position);
            widen(&projected.v.row(*token)[place], value);
        }
        Piece {
            queries,
            keys,
            values,
            sources: sources.to_vec(),
            tokens,
        }
    }

    /// The softmax of queries times keys, (tokens · group, seen). The weights of later tokens are
    /// zero.
    fn weights(&self, piece: &Piece, weights: &mut Vec<f32>) {
        let Heads { dim, .. } = self.heads;
        let (rows, seen) = (piece.queries.len() / dim, piece.sources.len());
        weights.resize(rows * seen, 0.0);
        product(
            &piece.queries,
            &piece.keys,
            weights,
            (rows, dim, seen),
            TransposedFactor::Abt,
            1.0,
            false,
        );
        let before = seen - piece.tokens.len();
        for (row, weights) in weights.chunks_exact_mut(seen).enumerate() {
            let (visible, hidden) = weights.split_at_mut(before + row / self.heads.group() + 1);
            let scale = 1.0 / exp_of_differences(visible);
            visible.iter_mut().for_each(|weight| *weight *= scale);
            hidden.fill(0.0);
        }
    }

    /// The query heads of one key head: (tokens · group, dim).
    fn gather(&self, from: &[f32], tokens: &Range<usize>, head: usize) -> Vec<f32> {
        let (width, part) = self.part(head);
        let rows = from[tokens.start * width..tokens.end * width].chunks_exact(width);
        let mut gathered = Vec::with_capacity(tokens.len() * part.len());
        rows.for_each(|row| gathered.extend_from_slice(&row[part.clone()]));
        gathered
    }

    fn gather_rows<E: Element>(
        &self,
        from: &Rows<E>,
        tokens: &Range<usize>,
        head: usize,
    ) -> Vec<f32> {
        let (_, part) = self.part(head);
        let mut gathered = vec![0.0; tokens.len() * part.len()];
        for (token, to) in tokens.clone().zip(gathered.chunks_exact_mut(part.len())) {
            widen(&from.row(token)[part.clone()], to);
        }
        gathered
    }

    fn scatter(&self, to: &mut [f32], tokens: &Range<usize>, head: usize, rows: &[f32]) {
        let (width, part) = self.part(head);
        let places = to[tokens.start * width..tokens.end * width].chunks_exact_mut(width);
        for (place, row) in places.zip(rows.chunks_exact(part.len())) {
            place[part.clone()].copy_from_slice(row);
        }
    }

    /// The width of a token's queries, and the range within it that belongs to a key head.
    fn part(&self, head: usize) -> (usize, Range<usize>) {
        let Heads { queries, dim, .. } = self.heads;
        let width = self.heads.group() * dim;
        (queries * dim, head * width..(head + 1) * width)
    }
}

fn widen<E: Element>(from: &[E], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_f32();
    }
}
