"""Sentence templates by topic.

Where a comma stands follows one rule, so that it can be learned: after an opener (see INTERJECTIONS), and
before a clause that begins with a connective (CONNECTIVES). No sentence begins with a connective.
"""

from __future__ import annotations

_CONNECTIVES_WORDS = "所以 但是 不过 而且 然后 就 因为 还要 那么 也 再 否则 才 都"
CONNECTIVES = tuple(_CONNECTIVES_WORDS.split())

_TOPICS = {
    "weather": """
        {day}{city}{weather}。
        {next_day}{city}的天气怎么样？
        {day}{city}{feel}。
        {next_day}会{weather}吗？
        最高气温{degrees}，而且有{wind}。
        {city}现在多少度？
        {next_day}最低气温{degrees}。
        如果{next_day}{weather}，就不要出门了。
        外面在{weather}，所以请带上雨伞。
        {city}的{season}{feel}。
        我最喜欢{season}，因为{season}{feel}。
        气温下降了{few}度，所以多穿点衣服。
        {part}有{wind}，但是不会{weather}。
        空气质量怎么样？
        {city}的{season}长吗？""",
    "time": """
        现在几点了？
        现在是{clock}。
        {next_day}{clock}叫我起床。
        请帮我定一个{clock}的闹钟。
        {minutes}以后提醒我{action}。
        {next_day}是星期几？
        {day}是{date}。
        {year}{date}是{weekday}。
        {who}{clock}{action}。
        {who}每天{clock}起床，然后去{place}。
        还有{minutes}就要{work}了。
        {who}什么时候{action}？
        离{date}还有{count}天。
        已经{clock}了，还要等多久？
        我的生日是{date}。""",
    "number": """
        {any_number}加{any_number}等于多少？
        {any_number}减{ordinal}等于多少？
        一共有{big}个人。
        我的号码是{code}。
        验证码是{code}。
        房间号是{extension}。
        请转分机{extension}。
        今年增长了{percent}。
        比去年下降了{percent}。
        他排第{ordinal}名。
        请翻到第{count}页。
        这本书有{big}页。
        从{few}数到{count}。
        电话号码是{mobile}。
        我的手机号是{mobile}。
        请拨打{mobile}。
        密码是{code}，不过不要告诉别人。
        {any_number}。""",
    "money": """
        这个多少钱？
        一共{money}。
        {goods}要{money}，但是{drink}只要{money}。
        我付了{money}。
        请给{person}转{money}。
        能不能便宜{money}？
        工资是{money}。
        这笔钱有{money}，所以请你数一下。
        {person}还欠我{money}。
        余额还有{money}。
        上个月花了{money}，这个月才花了{money}。
        房租每个月{money}。
        今年的预算是{money}。
        打{few}折以后是{money}。""",
    "travel": """
        我想去{city}旅游。
        从{city}到{city}要多长时间？
        {next_day}我们坐{vehicle}去{city}。
        请帮我订一张去{city}的{vehicle}票。
        {vehicle}{clock}到{city}。
        请问{place}怎么走？
        往前走{big}米，然后向左转。
        到了路口向右转，就能看见{place}。
        {place}离这里远吗？
        我在{place}门口等你。
        {who}去过{city}吗？
        {vehicle}晚点了{minutes}，所以我会迟到。
        我订了{few}个晚上的酒店。
        护照在哪里？
        {city}有什么好玩的地方？
        导航到{place}。
        先坐{vehicle}，再走{minutes}。
        行李有{count}公斤。""",
    "home": """
        {switch}{room}的{device}。
        请{switch}{device}。
        把{device}调到{degrees}。
        把{room}的灯关了。
        {room}太热了，所以请打开空调。
        音量调到{percent}。
        播放{song}。
        我想听{song}。
        {room}的{device}开着吗？
        {clock}{switch}{device}。
        把声音调大一点。
        把灯光调暗一点，再播放{song}。
        {device}还能用吗？
        家里没人的时候，就{switch}{device}。
        {minutes}以后{switch}{room}的{device}。
        打开{color}的灯。
        {room}里有{few}个{device}。""",
    "shopping": """
        我想买{color}的{goods}。
        有没有{size}的{goods}？
        这件衣服有{color}的吗？
        {goods}多少钱一个？
        我要{few}{unit_food}{fruit}。
        来{few}{unit_drink}{drink}。
        我要买{fruit}、{food}和{drink}。
        家里没有{fruit}、{drink}了，所以我去超市。
        {who}喜欢吃{food}吗？
        {who}最喜欢喝{drink}。
        {food}和{food}哪个好吃？
        这个{goods}{adj}。
        {goods}{adj}，不过我不需要。
        可以刷卡吗？
        再要一份{food}。
        我们中午吃{food}，晚上吃{food}。
        {fruit}很新鲜，而且很甜。
        请问您几位？
        菜单在哪里？
        {goods}、{goods}和{goods}都要。""",
    "meeting": """
        {next_day}{clock}在会议室{work}。
        我们先讨论{topic}。
        请{person}介绍一下{project}的进度。
        {project}的{topic}{adj}。
        {person}负责{project}。
        这个{document}什么时候完成？
        请把{document}发给{person}。
        {document}已经发给{dept}了。
        {dept}有什么意见？
        今天的会议主要讨论{topic}、{topic}和{topic}。
        {project}完成了{percent}。
        如果没有问题，我们就开始吧。
        大家同意吗？
        {topic}没有问题，但是{topic}还要再看。
        下一个议题是{topic}。
        {person}{day}{work}，所以不能参加。
        会议到{clock}结束。
        请大家看第{count}页。
        谁来做记录？
        我来总结一下{topic}。
        {dept}要在{date}以前交{document}。""",
    "call": """
        您好，请问有什么可以帮您？
        你好，我想查一下{service}。
        我的{service}出了问题。
        手机{problem}。
        我的{goods}坏了，所以我要退货。
        请问您贵姓？
        我姓{surname}。
        我叫{surname}{given}。
        请提供您的手机号码。
        请稍等，我帮您查一下。
        您的{service}还有{percent}。
        您的{service}将在{date}到期。
        我想投诉{service}。
        什么时候能修好？
        好的，我们会在{minutes}以内联系您。
        为什么我的{service}{problem}？
        请按{ordinal}号键。
        我要找人工客服。
        感谢您的来电。
        不好意思，让您久等了。
        {service}的费用是每月{money}。
        对不起，{person}现在不在。
        请问{person}在吗？
        还有其他问题吗？
        我的{service}被扣了{money}。
        {problem}怎么办？""",
    "people": """
        {person}是我的{subject}老师。
        {person}住在{city}。
        {who}喜欢{hobby}。
        {who}会{hobby}吗？
        {past_day}{who}和{person}去了{venue}。
        {family}今年{count}岁。
        {who}在{place}工作。
        我{past_day}见到了{person}。
        给{person}打电话。
        {who}的{body}疼，所以要去医院。
        我觉得{hobby}{adj}。
        {subject}考试{adj}。
        {who}在学{language}，也在学{subject}。
        {next_day}我们去{venue}看{animal}。
        {who}想学{hobby}，但是没有时间。
        {who}为什么不{action}？
        {person}和{person}是好朋友。
        {next_day}有{sport}比赛。
        {who}正在{action}。
        他是谁？
        你叫什么名字？
        {family}身体好吗？
        {animal}真可爱。
        别忘了{action}。
        {who}把{goods}放在{room}了。""",
    "assistant": """
        今天有什么新闻？
        请把这段话翻译成{language}。
        你会说{language}吗？
        {project}是怎么工作的？
        {project}技术{adj}。
        请重复一遍。
        请说慢一点。
        我听不清楚，请再说一遍。
        给{person}发短信。
        搜索{place}。
        附近有{place}吗？
        取消{next_day}的{work}提醒。
        {next_day}我有什么安排？
        请打开{language}字幕。
        把{document}读给我听。
        保存{document}，然后退出。
        声音识别成文字要多久？
        你能做什么？""",
}

TOPICS: dict[str, tuple[str, ...]] = {
    topic: tuple(line.strip() for line in lines.strip().split("\n")) for topic, lines in _TOPICS.items()
}
"""Topic name -> sentence templates, each ending in 。 or ？."""
