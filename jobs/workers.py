"""The actor classes of the jobs, in a module of their own: workers cannot find a class of `__main__`."""

import os

import pyarrow as pa

from cmir.archive import shards
from cmir.archive.storage import join
from cmir.errors import SpaceMismatchError
from cmir.network.embedder import Device


class EmbedWorker:
    """A Ray Data actor: pieces in, one row per piece out, with the piece's tables as Arrow IPC bytes.

    What was rejected is put into the gallery's quarantine here, under the piece's name, before the piece is reported;
    doing a piece again puts the same file again. Raises SpaceMismatchError where the bundle is not of `space_id`.
    """

    def __init__(self, bundle_uri: str, space_id: str, gallery_uri: str, device: Device, num_threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        import torch

        from cmir.gallery.piece_embedder import PieceEmbedder

        torch.set_num_threads(num_threads)
        self._embed = PieceEmbedder(bundle_uri, device)
        if self._embed.embedder.space_id != space_id:  # this actor started after the bundle had been replaced
            seen, fix = self._embed.embedder.space_id, "start the job again, it then fills the new bundle's space"
            raise SpaceMismatchError("bundle changed", seen=seen, expected=space_id, where=bundle_uri, fix=fix)
        self._gallery_uri = gallery_uri

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._embed_one(shards.Piece(**record)) for record in batch.to_pylist()])

    def _embed_one(self, piece: shards.Piece) -> dict[str, object]:
        done = self._embed(piece)
        if len(done.rejected):
            shards.write_quarantine(done.rejected, join(self._gallery_uri, "_quarantine", f"{piece.piece_id}.parquet"))
        return {
            "piece_id": done.piece_id,
            "rows": _to_ipc(done.rows),
            "thumbnails": _to_ipc(done.thumbnails),
            "num_rejected": len(done.rejected),
        }


def from_ipc(data: bytes) -> pa.Table:
    """A table from the Arrow IPC bytes a worker made."""
    with pa.ipc.open_stream(data) as stream:
        return stream.read_all()


def _to_ipc(table: pa.Table) -> bytes:
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue().to_pybytes())
