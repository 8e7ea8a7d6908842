"""A published gallery for a benchmark of search or service, made in this process."""

from collections.abc import Sequence

from cmir.archive import shards
from cmir.gallery import publish
from cmir.gallery.piece_embedder import PieceEmbedder
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.table import CommittedPiece, Gallery
from jobs.benchmarks.material import pieces_of


def published_gallery(uri: str, bundle_uri: str, shard_uris: Sequence[str]) -> str:
    """Embed the shards in this process and publish them with exact search; returns the gallery's URI."""
    embed = PieceEmbedder(bundle_uri)
    gallery = Gallery.create(uri)
    space = gallery.space(embed.embedder.space_id, embed.embedder.dim, bundle_uri)
    for piece in pieces_of(shards.list_shards(shard_uris)):
        done = embed(piece)
        gallery.add_thumbnails({done.piece_id: done.thumbnails})
        space.commit([CommittedPiece(piece.piece_id, done.rows, len(done.rejected))])
    publish.publish(
        uri,
        space.space_id,
        table_version=int(space.dataset().version),
        index=IndexSettings(),
        search=SearchSettings(),
        recall_at_10=1.0,
    )
    return uri
