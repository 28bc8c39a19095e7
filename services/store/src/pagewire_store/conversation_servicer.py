"""ConversationService and EventService: what was written, for readers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pagewire.store.v1.conversation_service_pb2 import (
    GetConversationRequest,
    GetConversationResponse,
    ListCommentsRequest,
    ListCommentsResponse,
    ListConversationsRequest,
    ListConversationsResponse,
    ListMessagesRequest,
    ListMessagesResponse,
    SearchMessagesRequest,
    SearchMessagesResponse,
)
from pagewire.store.v1.conversation_service_pb2_grpc import ConversationServiceServicer
from pagewire.store.v1.event_service_pb2 import WatchEventsRequest, WatchEventsResponse
from pagewire.store.v1.event_service_pb2_grpc import EventServiceServicer
from pagewire.type.v1.conversation_pb2 import Comment, Conversation, Message
from pagewire_runtime.errors import Kind, Refusal
from pagewire_runtime.interception import Context
from pagewire_store import pages, reads
from pagewire_store.database import in_transaction
from pagewire_store.page_tokens import PageTokens, page_size


class NotBuilt(Refusal):
    """The contract has this method; this release does not serve it yet."""

    kind = Kind.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: this release does not offer it yet")


class ConversationServicer(ConversationServiceServicer):
    """Reads of conversations, messages and comments."""

    def __init__(self, engine: AsyncEngine, tokens: PageTokens) -> None:
        self._engine = engine
        self._tokens = tokens

    async def ListConversations(
        self, request: ListConversationsRequest, context: Context
    ) -> ListConversationsResponse:
        size, after = page_size(request), self._tokens.read(request)

        async def read(connection: AsyncConnection) -> list[Conversation]:
            await pages.require_known(connection, request.page_id)
            return await reads.list_conversations(
                connection,
                request.page_id,
                after,
                size + 1,
                include_archived=request.include_archived,
            )

        found = await in_transaction(self._engine, read)
        part, more = self._tokens.part(request, found, size, reads.position_of_conversation)
        return ListConversationsResponse(conversations=part, next_page_token=more)

    async def GetConversation(
        self, request: GetConversationRequest, context: Context
    ) -> GetConversationResponse:
        found = await in_transaction(
            self._engine,
            lambda connection: reads.get_conversation(connection, request.conversation_id),
        )
        return GetConversationResponse(conversation=found)

    async def ListMessages(
        self, request: ListMessagesRequest, context: Context
    ) -> ListMessagesResponse:
        size, after = page_size(request), self._tokens.read(request)

        async def read(connection: AsyncConnection) -> list[Message]:
            conversation = await reads.get_conversation(connection, request.conversation_id)
            return await reads.list_messages(
                connection,
                conversation,
                after,
                size + 1,
                include_archived=request.include_archived,
            )

        found = await in_transaction(self._engine, read)
        part, more = self._tokens.part(request, found, size, reads.position_of_message)
        return ListMessagesResponse(messages=part, next_page_token=more)

    async def SearchMessages(
        self, request: SearchMessagesRequest, context: Context
    ) -> SearchMessagesResponse:
        raise NotBuilt("searching messages")

    async def ListComments(
        self, request: ListCommentsRequest, context: Context
    ) -> ListCommentsResponse:
        size, after = page_size(request), self._tokens.read(request)

        async def read(connection: AsyncConnection) -> list[Comment]:
            await pages.require_known(connection, request.page_id)
            return await reads.list_comments(
                connection,
                request.page_id,
                after,
                size + 1,
                include_archived=request.include_archived,
            )

        found = await in_transaction(self._engine, read)
        part, more = self._tokens.part(request, found, size, reads.position_of_comment)
        return ListCommentsResponse(comments=part, next_page_token=more)


class EventServicer(EventServiceServicer):
    """The event stream, which a later release serves."""

    def WatchEvents(
        self, request: WatchEventsRequest, context: Context
    ) -> AsyncIterator[WatchEventsResponse]:
        raise NotBuilt("the stream of events")
